"""What decides in the gateway, without HTTP: promises, order, patience, breaker, device time,
deploy.yaml."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline import paths, records
from pipeline.errors import RecipeError, SetupError
from pipeline.gateway import command, deploy_file, promise, routing
from pipeline.gateway.breaker import FAILURES, LONGEST_S, Breaker
from pipeline.gateway.deploy_file import Tier as Settings
from pipeline.gateway.device_time import DeviceTime
from pipeline.gateway.promise import Promise
from pipeline.gateway.routing import Need, Patience
from pipeline.gateway.tier import Tier
from pipeline.recipe import Recipe
from pipeline.records import Benchmark
from tests.conftest import ROOT
from tests.gateway import approved, promised

PROMPT = 64  # bytes: 16 tokens, as those of the stand-in's benchmark


def tier(name: str, promise: Promise | None = None, running: int = 0, ready: bool = True) -> Tier:
    one = Tier("chat", name, Settings(bundle="x", timeout_s=60), approved("d1635", promise))
    one.unready = None if ready else "starting"
    for _ in range(running):
        one.device.begin(0)
    return one


def test_a_promise_is_what_the_benchmark_measured(measured: Recipe) -> None:
    benchmark = records.read(paths.benchmark("tiny", "ov-int8"), Benchmark)
    made = promise.of(benchmark, 16)
    assert made is not None
    levels = {
        level.concurrency: level
        for level in benchmark.profiles["deployed"].levels
        if level.loop == "closed"
    }
    assert [point.concurrency for point in made.points] == sorted(map(int, levels))
    for point in made.points:
        level = levels[point.concurrency]
        assert level.ttft_ms and level.tpot_ms
        low = level.ttft_ms.estimate.median
        assert low <= point.ttft_ms <= max(level.ttft_ms.percentiles.values())
        alone = made.answer_ms(point.concurrency - 1, 16, 100)
        assert alone == pytest.approx(point.ttft_ms + 100 * point.tpot_ms)


def test_nothing_measured_is_nothing_promised(measured: Recipe) -> None:
    benchmark = records.read(paths.benchmark("tiny", "ov-int8"), Benchmark)
    assert promise.of(benchmark.model_copy(update={"profiles": {}}), 16) is None


def test_load_and_length_lengthen_a_promise() -> None:
    made = promised(100, 10)  # at 1; twice that at 8
    assert made.answer_ms(0, 16, 20) == 300
    assert made.answer_ms(1, 16, 20) == made.answer_ms(7, 16, 20) == 600
    assert made.answer_ms(15, 16, 20) == 1200  # twice as many as were measured
    assert made.answer_ms(0, 160, 20) == 1000 + 200
    assert made.answer_ms(0, 1, 20) == 300  # no less than was measured
    assert made.first_ms(0, 32) == 200


@pytest.mark.parametrize(
    ("tiers", "target_ms", "expected"),
    [
        ([tier("a", promised(10)), tier("b", promised(1))], None, "ab"),
        ([tier("a", promised(10)), tier("b", promised(1))], 1000, "ab"),
        ([tier("a", promised(900)), tier("b", promised(1))], 100, "ba"),
        ([tier("a", promised(900)), tier("b", promised(300)), tier("c", promised(1))], 400, "bca"),
        ([tier("a", promised(900)), tier("b", promised(800))], 10, "ba"),  # neither: the quickest
        ([tier("a", promised(10), running=8), tier("b", promised(10))], None, "ba"),
        ([tier("a", running=16), tier("b", running=9)], None, "ba"),
        ([tier("a", running=7), tier("b")], None, "ab"),
        ([tier("a", promised(10), running=80), tier("b", promised(40))], 300, "ba"),
        ([tier("a"), tier("b", promised(5))], 1000, "ba"),  # an unknown one promises nothing
        ([tier("a", ready=False), tier("b")], None, "b"),
        ([tier("a", ready=False)], 100, ""),
    ],
)
def test_who_is_asked_first(tiers: list[Tier], target_ms: float | None, expected: str) -> None:
    order = routing.order(tiers, Need(target_ms, 20, PROMPT, 20), 0.0)
    assert "".join(one.name for one in order) == expected


def test_patience_leaves_time_for_a_rescue() -> None:
    slow, quick, unknown = tier("a", promised(100, 10)), tier("b", promised(20, 1)), tier("c")
    need, tight = Need(2000, 20, PROMPT, 20), Need(310, 20, PROMPT, 20)

    def wait(others: list[Tier], need: Need, whole: bool = True) -> Patience:
        return routing.patience(slow, others, need, whole)

    # a promises 300 ms and b 40; a tenth of the target is spared
    assert wait([quick], need) == Patience(pytest.approx((2000 - 200 - 40) / 1000), 5)
    assert wait([quick], tight) == Patience(pytest.approx(0.3), 5)  # its promise
    assert wait([quick], tight, whole=False) == Patience(pytest.approx(0.239), 5)
    assert wait([], need) == wait([unknown], need) == Patience(60, 5)  # no rescue
    assert wait([quick], Need(None, 20, PROMPT, 20)) == Patience(60, 5)
    assert wait([quick], Need(30, 20, PROMPT, 20)) == Patience(5, 5)  # nobody meets it any more
    assert routing.patience(unknown, [], need, True) == Patience(60, 30)
    # as long as its context is, 64 tokens, where the request does not say
    longest = Need(None, 20, PROMPT, 2**31)
    slowest = tier("a", promised(1000, 1000))
    assert routing.patience(slowest, [], longest, True) == Patience(130, 130)


def test_a_breaker_opens_after_failures_in_a_row_and_tries_one() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.failed(9.0, 10.0)
    assert not breaker.is_open(10.0)
    breaker.succeeded()
    for _ in range(FAILURES):
        breaker.failed(9.0, 10.0)
    assert breaker.is_open(10.9) and not breaker.is_open(11.1)
    breaker.tried(11.1)
    assert breaker.is_open(11.2)  # one alone
    breaker.failed(11.1, 11.3)
    assert breaker.is_open(13.2) and not breaker.is_open(13.4)  # twice as long
    for now in range(20, 30):
        breaker.failed(now, now)
    assert breaker.is_open(28.9 + LONGEST_S) and not breaker.is_open(29.1 + LONGEST_S)
    breaker.succeeded()
    assert not breaker.is_open(30.0)


def test_what_breaks_at_once_is_one_outage() -> None:
    breaker = Breaker()
    for _ in range(32):
        breaker.failed(9.0, 10.0)
    assert breaker.is_open(10.9) and not breaker.is_open(11.1)


SPANS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 20)).map(lambda pair: (pair[0], sum(pair))),
    min_size=1,
    max_size=12,
)


@given(SPANS)
def test_device_time_is_shared_by_what_runs(spans: list[tuple[int, int]]) -> None:
    """Held against a sum over each unit of time."""
    clock, begun, got = DeviceTime(), dict[int, float](), dict[int, float]()
    for now in range(70):
        for number, (start, end) in enumerate(spans):
            if end == now:
                got[number] = clock.end(begun[number], now)
            if start == now:
                begun[number] = clock.begin(now)
    for number, (start, end) in enumerate(spans):
        share = math.fsum(
            1 / sum(first <= now < last for first, last in spans) for now in range(start, end)
        )
        assert got[number] == pytest.approx(share)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": {}}, "models: found {}"),
        ({"models": {"a b": {"tiers": {"x": {"bundle": "b"}}}}}, "name 'a b'"),
        ({"models": {"m": {"tiers": {}}}}, "models.m.tiers"),
        ({"models": {"m": {"tiers": {"cache": {"bundle": "b"}}}}}, "name 'cache'"),
        ({"models": {"m": {"tiers": {"x": {"bundle": ""}}}}}, "models.m.tiers.x.bundle"),
        ({"models": {"m": {"tiers": {"x": {"bundle": "b", "url": "x:1"}}}}}, "http://HOST:PORT/v1"),
        ({"models": {"m": {"tiers": {"x": {"bundle": "b", "key_file": "k"}}}}}, "only with url"),
        ({"listen": {"host": "0.0.0.0"}}, "no keys"),
        ({"keys": {"a": {"file": "k", "max_tokens": 0}}}, "keys.a.max_tokens"),
        ({"keys": {"a": {"fil": "k"}}}, "Did you mean 'file'?"),
        ({"cache": {"url": "http://x"}}, "redis://HOST:PORT/0"),
        ({"features": ["a/b"]}, "name 'a/b'"),
        ({"currency": "dollars"}, "three capitals"),
        ({"recheck_s": 0}, "recheck_s"),
    ],
)
def test_a_wrong_deployment_is_one_clear_error(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    whole = {"models": {"m": {"tiers": {"x": {"bundle": "b"}}}}} | change
    path = tmp_path / "deploy.yaml"
    YAML(typ="safe").dump(whole, path)
    with pytest.raises(RecipeError) as error:
        deploy_file.load(path)
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)


def test_paths_are_as_seen_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deploy.yaml"
    path.write_text(
        "policy: p.yaml\nkeys: {a: {file: s/a.key}}\nmodels: {m: {tiers: {x: {bundle: b/1},"
        " y: {bundle: 's3://b/c', url: 'http://h:1/v1', key_file: k, benchmark: t.json}}}}\n"
    )
    deploy = deploy_file.load(path)
    assert deploy.policy == str(tmp_path / "p.yaml")
    assert deploy.usage == str(tmp_path / "usage.sqlite")
    assert deploy.keys["a"].file == str(tmp_path / "s/a.key")
    here, there = deploy.models["m"].tiers.values()
    assert here.bundle == str(tmp_path / "b/1")
    assert (there.bundle, there.url) == ("s3://b/c", "http://h:1/v1")
    assert (there.key_file, there.benchmark) == (str(tmp_path / "k"), str(tmp_path / "t.json"))


def test_every_key_of_deploy_yaml_is_documented() -> None:
    text = (ROOT / "docs" / "gateway.md").read_text()
    table = "\n".join(line for line in text.splitlines() if line.startswith("| `"))
    models = (
        deploy_file.Deploy,
        deploy_file.Listen,
        deploy_file.Key,
        deploy_file.Budget,
        deploy_file.Cache,
        deploy_file.Model,
        deploy_file.Tier,
    )
    names = {name for model in models for name in model.model_fields}
    assert {name for name in names if f"`{name}" not in table} == set()


def test_every_missing_file_is_named_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "deploy.yaml"
    path.write_text(
        "keys: {shop: {file: shop.key}}\n"
        "models: {chat: {tiers: {edge: {bundle: x, url: 'http://h:1/v1', key_file: edge.key}}}}\n"
        "listen: {port: 0}\n"
    )
    with pytest.raises(SetupError) as refused:
        command.run(path)
    bundle, first, second = str(refused.value).splitlines()
    place = f"{path}: models.chat.tiers.edge.bundle: found {tmp_path / 'x'}, where no folder is."
    assert bundle.startswith(place) and "quantgate fetch" in bundle
    assert first.startswith(f"{path}: keys.shop.file: found {tmp_path / 'shop.key'}, ")
    assert second.startswith(f"{path}: models.chat.tiers.edge.key_file: found ")
    assert "openssl rand -hex 32 > " in first
