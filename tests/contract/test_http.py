"""The benchmark over HTTP: vLLM's load generator on a server with known delays, and `vllm serve`
started and stopped.

The delays are tens to hundreds of milliseconds, so that the 2 % allowed here mean something.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pipeline import paths, records
from pipeline.benchmark import speed_statistics
from pipeline.engines import server
from pipeline.engines.server import Served
from pipeline.errors import EvaluationError, RecipeError
from pipeline.evidence import opened
from pipeline.evidence.candidate import Candidate
from pipeline.gateway import approved, deploy_file
from pipeline.recipe import Serve, Slo
from pipeline.records import Replay, Trace, TracedRequest, artifact
from pipeline.runtime.process import Session
from pipeline.source import checkpoint
from pipeline.stages import benchmark_http
from tests.conftest import ROOT
from tests.http_server import Behaviour, Running, running

pytestmark = pytest.mark.engine

FIRST_S, TOKEN_S, TOKENS = 0.5, 0.05, 9
WHOLE_S = FIRST_S + (TOKENS - 1) * TOKEN_S
CHECKPOINT = ROOT / "recipes" / "tiny" / "checkpoint"
SERVE = Serve(max_model_len=256, max_num_seqs=8, max_num_batched_tokens=256, eager=True)
Ask = Callable[..., list[Replay]]


# what a machine that does something else may add to a single request; medians are held to 2 %
HICCUP_S = 0.05


def near(value: float) -> Any:
    return pytest.approx(value, rel=0.02)


def single(value_s: float) -> Any:
    return pytest.approx(value_s, abs=HICCUP_S)


def trace(count: int) -> Trace:
    """Prompts that start with the request's own number; Poisson arrivals."""
    rng, at, requests = random.Random(3), 0.0, []
    for number in range(count):
        at += rng.expovariate(1.0)
        requests.append(TracedRequest(arrival=at, prompt=[number, 5, 5], output_tokens=TOKENS))
    return Trace(prompts="made", seed=3, sha256="t", requests=requests)


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    def replays(
        server: Running,
        count: int,
        *loads: dict[str, Any],
        timeout_s: float = 30,
        tokenizer: str | None = None,
    ) -> Any:
        monkeypatch.chdir(ROOT)
        file = tmp_path / "trace.json"
        file.write_text(trace(count).dumps())
        job = {
            "url": server.url,
            "model": "fake",
            "trace": str(file),
            "tokenizer": tokenizer,
            "timeout_s": timeout_s,
        }
        with closing(
            Session("vllm", "load", {**job, "pid": os.getpid()}, tmp_path / "job.json")
        ) as session:
            assert session.ask()["versions"]["vllm"]
            answer = session.ask({"loads": list(loads), "repeat": 0})
        return [Replay.model_validate(replay) for replay in answer["replays"]]

    return replays


def test_figures_of_both_loops_are_the_servers(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret")
    with running(Behaviour(FIRST_S, TOKEN_S)) as server:
        closed, opened = ask(server, 12, {"concurrency": 4}, {"rate_per_s": 5.0, "fraction": 0.5})
    for replay in (closed, opened):
        level = speed_statistics.levels(
            [replay], Slo(ttft_ms=1.2 * 1000 * FIRST_S, tpot_ms=1.2 * 1000 * TOKEN_S)
        )[0]
        assert level.failed == 0
        assert level.ttft_ms.estimate.median == near(1000 * FIRST_S)
        assert level.tpot_ms.estimate.median == near(1000 * TOKEN_S)
        assert level.itl_ms.estimate.median == near(1000 * TOKEN_S)
        assert level.e2e_ms.estimate.median == near(1000 * WHOLE_S)
        assert all(len(request.arrivals_s) == TOKENS for request in replay.requests)
    assert closed.wall_s == near(3 * WHOLE_S)
    level = speed_statistics.levels([closed], Slo(ttft_ms=1.2 * 1000 * FIRST_S))[0]
    assert level.output_tokens_per_s.median == near(12 * TOKENS / (3 * WHOLE_S))
    assert level.total_tokens_per_s.median == near(12 * (3 + TOKENS) / (3 * WHOLE_S))
    assert level.goodput_per_s.median == near(12 / (3 * WHOLE_S))
    assert_poisson_arrivals_honoured(opened, server)
    assert all(request.authorization == "Bearer a-secret" for request in server.arrived)
    assert "a-secret" not in "".join(capfd.readouterr())


def assert_poisson_arrivals_honoured(opened: Replay, server: Running) -> None:
    due = [request.arrival / 5.0 for request in trace(12).requests]
    assert [request.due_s for request in opened.requests] == pytest.approx(due, abs=1e-5)
    last = server.arrived[-12:]
    seen = [request.at_s - last[0].at_s for request in last]
    assert seen == pytest.approx([at - due[0] for at in due], abs=HICCUP_S)
    assert opened.wall_s == near(due[-1] - due[0] + WHOLE_S)
    bodies = [request.body for request in last]
    assert [body["prompt"] for body in bodies] == [request.prompt for request in trace(12).requests]
    assert {(body["max_tokens"], body["ignore_eos"], body["temperature"]) for body in bodies} == {
        (TOKENS, True, 0)
    }


def test_stragglers_failures_and_a_request_that_hangs_are_all_counted(ask: Ask) -> None:
    behaviour = Behaviour(
        FIRST_S,
        TOKEN_S,
        slow_s={1: 2 * FIRST_S, 9: 60.0},
        refused=frozenset({3}),
        broken=frozenset({5}),
        short=frozenset({7}),
    )
    with running(behaviour) as server:
        replay = ask(server, 12, {"concurrency": 12}, timeout_s=3)[0]
    level = speed_statistics.levels([replay], Slo(ttft_ms=1.5 * 1000 * FIRST_S))[0]
    assert (level.requests, level.failed) == (12, 4)
    failed = {number: request for number, request in enumerate(replay.requests) if request.failed}
    assert list(failed) == [3, 5, 7, 9]
    assert failed[3].error == "Internal Server Error"
    assert len(failed[5].arrivals_s) == 2
    assert failed[5].error
    assert (failed[7].error, failed[7].tokens) == (None, TOKENS - 1)
    assert failed[9].error == "no whole answer within 3 s"
    assert replay.requests[1].ttft_s == single(2 * FIRST_S)
    assert replay.wall_s == near(3.0)
    assert level.requests_per_s.median == near(8 / 3)
    assert level.goodput_per_s.median == near(7 / 3)


def test_queueing_is_seen(ask: Ask) -> None:
    """Two served at once, four in flight: each waits for one whole request. In the open loop, one
    after the other."""
    with running(Behaviour(FIRST_S, TOKEN_S, slots=2)) as server:
        closed, opened = ask(server, 8, {"concurrency": 4}, {"rate_per_s": 4.0, "fraction": 1.5})
    assert closed.wall_s == near(4 * WHOLE_S)
    # Requests sent at the same moment may come in another order than they were sent.
    first = sorted(request.ttft_s for request in closed.requests[:4])
    assert first == [single(FIRST_S)] * 2 + [single(WHOLE_S + FIRST_S)] * 2
    assert [request.ttft_s for request in closed.requests[4:]] == [single(WHOLE_S + FIRST_S)] * 4
    free, expected = [0.0, 0.0], []
    for request in trace(8).requests:
        due = request.arrival / 4.0
        end = max(due, min(free)) + WHOLE_S
        free[free.index(min(free))] = end
        expected.append(single(end - due))
    assert sorted(timed.e2e_s for timed in opened.requests) == sorted(
        expected, key=lambda value: value.expected
    )


def test_a_server_that_counts_no_tokens_is_refused(ask: Ask) -> None:
    with (
        running(Behaviour(0.01, 0.001, usage=False)) as server,
        pytest.raises(EvaluationError, match="sent no usage"),
    ):
        ask(server, 2, {"concurrency": 1})


def test_what_the_server_says_is_passed_on(ask: Ask) -> None:
    with (
        running(Behaviour(0.01, 0.001, text_only=True)) as server,
        pytest.raises(EvaluationError, match="prompt is not a string"),
    ):
        ask(server, 2, {"concurrency": 1})


def children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@pytest.fixture
def others() -> set[psutil.Process]:
    """What ran before: servers that tests before share until the session ends."""
    return children()


@pytest.fixture
def nothing_left() -> Iterator[list[psutil.Process]]:
    """Processes that the test started, all of which must be gone in the end."""
    started: list[psutil.Process] = []
    yield started
    assert not psutil.wait_procs(started, timeout=30)[1]


@pytest.fixture(params=["vllm", "openvino"])
def tiny_served(request: pytest.FixtureRequest) -> Served:
    if request.param == "vllm":
        return Served("vllm", CHECKPOINT, SERVE, "tiny")
    run = request.getfixturevalue("tiny_untouched")
    return Served("openvino", run / "artifacts/models/tiny/ov-bf16", SERVE, "tiny")


def test_a_server_is_started_and_stopped_even_when_interrupted(
    tiny_served: Served,
    tmp_path: Path,
    root: Path,
    others: set[psutil.Process],
    nothing_left: list[psutil.Process],
) -> None:
    with pytest.raises(KeyboardInterrupt), server.served(tiny_served, tmp_path) as running:
        nothing_left += children() - others
        assert len(nothing_left) >= 2
        assert benchmark_http._only_model(running.url) == "tiny"
        assert 1 < running.load_s < 300
        assert 1e8 < running.memory.stop().resident_bytes < 2e10
        raise KeyboardInterrupt


HELD = """
import sys, time
from pathlib import Path
from pipeline.engines import server
from pipeline.engines.server import Served
from pipeline.recipe import Serve
engine, model, settings, log = sys.argv[1:]
what = Served(engine, Path(model), Serve.model_validate_json(settings), "tiny")
with server.served(what, Path(log)):
    print("up", flush=True)
    time.sleep(600)
"""


def test_a_server_dies_with_a_killed_quantgate(
    tiny_served: Served,
    tmp_path: Path,
    root: Path,
    others: set[psutil.Process],
    nothing_left: list[psutil.Process],
) -> None:
    given = [tiny_served.engine, str(tiny_served.artifact), SERVE.model_dump_json(), str(tmp_path)]
    command = [sys.executable, "-c", HELD, *given]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    assert parent.stdout.readline() == "up\n"
    nothing_left += children() - others
    parent.kill()
    parent.wait()


def test_a_server_that_cannot_start_says_why(
    tiny_served: Served, tmp_path: Path, root: Path, others: set[psutil.Process]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    refused = pytest.raises(
        EvaluationError, match=r"ended with exit code [12] before it was ready[\s\S]*empty"
    )
    with refused, server.served(dataclasses.replace(tiny_served, artifact=empty), tmp_path):
        pass
    assert not children() - others


@pytest.fixture
def short_plan(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The integration run's tiny recipe, with two short repeats."""
    monkeypatch.chdir(tiny_run)
    whole = opened.candidate

    def shortened(name: str, variant: str) -> Candidate:
        found = whole(name, variant)
        plan = found.recipe.benchmark.model_copy(
            update={"concurrency": [2, 4], "repeats": 2, "open_loop": [0.5]}
        )
        return dataclasses.replace(
            found, recipe=found.recipe.model_copy(update={"benchmark": plan})
        )

    monkeypatch.setattr(opened, "candidate", shortened)


def test_a_variant_is_timed_on_vllm_serve(
    tiny_run: Path,
    http_benchmark: subprocess.CompletedProcess[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tiny_run)
    assert http_benchmark.returncode == 0, http_benchmark.stderr
    assert "tokens/s over HTTP, concurrency 8" in http_benchmark.stdout
    record = records.read(paths.http("tiny", "vllm-bf16"), records.Benchmark)
    assert (
        record.artifact_sha256
        == records.read(paths.benchmark("tiny", "vllm-bf16"), records.Benchmark).artifact_sha256
    )
    profile = record.profiles["deployed"]
    loads = [(level.loop, level.concurrency, level.fraction) for level in profile.levels]
    assert loads == [("closed", n, None) for n in (1, 4, 8)] + [
        ("open", None, part) for part in (0.5, 0.8)
    ]
    assert all(
        level.failed == 0 and level.output_tokens_per_s.median > 0 for level in profile.levels
    )
    assert profile.load_s
    assert profile.peak_memory_bytes
    raw = records.read(paths.http("tiny", "vllm-bf16.timings"), records.Timings)
    assert (
        speed_statistics.levels(raw.replays["deployed"], None)[0].requests_per_s
        == profile.levels[0].requests_per_s
    )


def test_vllms_load_generator_gets_all_that_our_own_server_has(short_plan: None) -> None:
    benchmark_http.run("tiny", "ov-int8", None, None)
    profile = records.read(paths.http("tiny", "ov-int8"), records.Benchmark).profiles["deployed"]
    assert len(profile.levels) >= 2
    assert all(
        level.failed == 0 and level.output_tokens_per_s.median > 0 for level in profile.levels
    )


def test_an_openvino_variant_is_timed_on_a_given_server_and_says_what_is_not_known(
    short_plan: None,
) -> None:
    with running(Behaviour(0.02, 0.002, text_only=True, models=("one",))) as server:
        benchmark_http.run("tiny", "ov-int4", server.url.removesuffix("/v1"), None)
    record = records.read(paths.http("tiny", "ov-int4"), records.Benchmark)
    assert (record.artifact_sha256, record.machine, record.versions) == (None, {}, {})
    profile = record.profiles["deployed"]
    assert (profile.load_s, profile.peak_memory_bytes) == (None, None)
    assert (profile.settings["model"], profile.settings["prompts"]) == ("one", "text")
    assert all(level.failed == 0 for level in profile.levels)
    assert any("not verified" in notice for notice in record.notices)
    assert any(
        "16 of 16 requests had another number of prompt tokens" in notice
        for notice in record.notices
    )
    source, _ = checkpoint.open_pinned("tiny", opened.recipe("tiny").model)
    words = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    assert any(word in server.arrived[0].body["prompt"] for word in words if len(word) > 2)


def test_a_given_server_that_lists_the_artifacts_digest_is_measured_as_that(
    short_plan: None,
) -> None:
    """And the gateway takes the record as what its tier promises."""
    manifest = records.read(paths.manifest("tiny", "ov-int4"), records.Manifest)
    digest = artifact.digest(manifest.files)
    name = f"shop@sha256:{digest}"
    with running(Behaviour(0.02, 0.002, text_only=True, models=("shop", name))) as served:
        benchmark_http.run("tiny", "ov-int4", served.url.removesuffix("/v1"), None)
        assert {request.body["model"] for request in served.arrived} == {name}
    where = paths.http("tiny", "ov-int4")
    record = records.read(where, records.Benchmark)
    assert record.artifact_sha256 == digest
    assert any("lists this artifact's digest" in notice for notice in record.notices)
    tier = deploy_file.Tier(bundle="b", url="http://127.0.0.1:1/v1", benchmark=str(where))
    bundle: Any = SimpleNamespace(records=SimpleNamespace(manifest=manifest))
    assert approved._measured(tier, bundle) == record
    other = manifest.model_copy(update={"files": manifest.files[1:]})
    bundle.records.manifest = other
    with pytest.raises(RecipeError, match="artifact_sha256: found"):
        approved._measured(tier, bundle)
