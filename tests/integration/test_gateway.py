"""Both engines on tiny behind one address, with a real Redis: what is killed, stopped or rejected
costs nobody an answer."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest

from pipeline.engines.server import free_port
from tests import release
from tests.conftest import command
from tests.processor import ON_VLLM
from tests.serving import until

pytestmark = pytest.mark.engine
START_S = 300.0
EDGE, CLOUD = "ov-int8", ON_VLLM
KEY = "a-key-of-the-store"
SECONDS = 3  # between looks whether an approval holds
DEPLOY = """
listen: {{port: {port}}}
policy: {policy}
recheck_s: {recheck}
features: [chatbot, search]
keys:
  store: {{file: store.key, max_tokens: 64}}
{cache}models:
  tiny:
    usual_tokens: 16
    tiers:
      edge: {{bundle: {edge}, price_per_hour: 0.1, timeout_s: 20}}
      cloud: {{bundle: {cloud}, price_per_hour: 1.0, timeout_s: 20}}
"""
KINDS = ("Once upon a time", "The favourite colour of", "There was a", "Who lives in")


@dataclass
class Deployed:
    folder: Path
    process: subprocess.Popen[bytes]
    port: int
    redis: subprocess.Popen[bytes] | None

    def children(self, word: str) -> list[psutil.Process]:
        """Those with the word in their command; one that was killed is none any more."""
        return [
            child
            for child in psutil.Process(self.process.pid).children(recursive=True)
            if word in _command(child)
        ]


def _command(process: psutil.Process) -> str:
    """Empty of one that has ended, be it before or since it was listed."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture(scope="module")
def deployed(tiny_untouched: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """`quantgate gateway` in a copy of the project that `make repro` was run in, both tiers up."""
    folder = tmp_path_factory.mktemp("gateway")
    shutil.copytree(tiny_untouched, folder / "project", symlinks=True)
    with ExitStack() as stack:
        stack.enter_context(chdir(folder / "project"))
        _publish()
        redis = _redis(stack)
        port = free_port()
        (folder / "store.key").write_text(f"{KEY}\n")
        url = f"cache: {{url: 'redis://127.0.0.1:{redis[1]}/0'}}\n" if redis else ""
        (folder / "deploy.yaml").write_text(
            DEPLOY.format(
                port=port,
                policy="project/signoff/policy.yaml",
                recheck=SECONDS,
                cache=url,
                edge=f"registry/tiny/{EDGE}/1",
                cloud=f"registry/tiny/{CLOUD}/1",
            )
        )
        process = stack.enter_context(_gateway(folder / "deploy.yaml"))
        running = Deployed(folder, process, port, redis[0] if redis else None)
        until(lambda: _ready(running) == {"edge", "cloud"}, START_S)
        yield running


def _publish() -> None:
    release.write_policy()
    key = ("--key", release.key(release.ADA))
    for variant in (EDGE, CLOUD):
        quantgate("signoff", "request", "tiny", variant, "--by", release.AUTHOR)
        quantgate("signoff", "approve", "tiny", variant, *key)
    release.commit("signed off")
    for variant in (EDGE, CLOUD):
        to = ("--to", "../registry", "--key", release.key(release.CI), "--version", "1")
        quantgate("publish", "tiny", variant, *to)


def quantgate(*words: str) -> None:
    done = command("quantgate", *words)
    assert done.returncode == 0, done.stderr


def _redis(stack: ExitStack) -> tuple[subprocess.Popen[bytes], int] | None:
    """Debian's redis-server, where it is installed; without it nothing is kept."""
    program = shutil.which("redis-server")
    if program is None:
        return None
    port = free_port()
    words = [program, "--port", str(port), "--save", "", "--appendonly", "no"]
    process = stack.enter_context(subprocess.Popen(words, stdout=subprocess.DEVNULL))
    stack.callback(process.kill)
    return process, port


def _gateway(deploy: Path) -> Any:
    words = [str(Path(sys.executable).with_name("quantgate")), "gateway", str(deploy)]
    log = (deploy.parent / "gateway.log").open("wb")

    class Running(subprocess.Popen[bytes]):
        def __exit__(self, *error: object) -> None:
            self.terminate()
            try:
                assert self.wait(60) in (0, 130)
            finally:
                self.kill()

    return Running(words, stdout=log, stderr=log)


def _ready(running: Deployed) -> set[str]:
    assert running.process.poll() is None, (running.folder / "gateway.log").read_text()
    try:
        tiers = json.loads(call(running, "/health")[2])["tiers"]
    except OSError:
        return set()
    return {name.partition("/")[2] for name, state in tiers.items() if state == "ready"}


def call(
    running: Deployed, path: str, body: dict[str, Any] | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{running.port}{path}",
        json.dumps(body).encode() if body else None,
        {"Authorization": f"Bearer {KEY}", **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


@dataclass
class Answer:
    """`end`: whole, or of a stream that broke off: error if it said so, else silence. `whole`: it
    has as many tokens as were asked for."""

    status: int
    tier: str
    end: Literal["whole", "error", "silence"]
    whole: bool


def ask(running: Deployed, number: int) -> Answer:
    """One of the mixed load: streamed or not, with and without a target, every tenth may be
    shared."""
    stream = number % 2 == 1
    body = {
        "model": "tiny",
        "prompt": KINDS[number % len(KINDS)],
        "max_tokens": 8 + number % 25,
        "ignore_eos": True,
        "stream": stream,
        "stream_options": {"include_usage": True} if stream else None,
        "temperature": 0 if number % 10 == 0 else 0.7,
    }
    headers = {"X-Feature": ("chatbot", "search")[number % 2]}
    if number % 3:
        headers["X-Latency-Target-Ms"] = ("1500", "20000")[number % 3 - 1]
    status, shown, text = call(running, "/v1/completions", body, **headers)
    tier = shown.get("x-quantgate-tier", "none")
    if status != 200:
        print(status, text.decode())  # for whoever reads of a failure
        return Answer(status, tier, "whole", False)
    if not stream:
        usage = json.loads(text)["usage"]
        return Answer(status, tier, "whole", usage["completion_tokens"] == body["max_tokens"])
    *events, done = [line.removeprefix("data: ") for line in text.decode().split("\n\n") if line]
    chunks = [json.loads(event) for event in events]
    if done != "[DONE]":
        return Answer(status, tier, "silence", False)
    if "error" in chunks[-1]:
        return Answer(status, tier, "error", False)
    (usage,) = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    ends = [c for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    answered_once = len(ends) == 1
    told = usage["completion_tokens"] == body["max_tokens"]
    return Answer(status, tier, "whole", answered_once and told)


def load(running: Deployed, requests: int, disturb: Any = None, at_once: int = 32) -> list[Answer]:
    """`disturb` is called once a quarter of them is answered."""
    with ThreadPoolExecutor(at_once) as pool:
        answers = [pool.submit(ask, running, number) for number in range(requests)]
        if disturb:
            until(lambda: sum(one.done() for one in answers) >= requests // 4, 120)
            disturb()
        return [one.result() for one in answers]


def fallbacks(running: Deployed, tier: str) -> float:
    metrics = call(running, "/metrics")[2].decode()
    found = re.findall(rf'fallbacks_total{{.*tier="{tier}".*}} (\S+)', metrics)
    return sum(map(float, found))


def all_answered(answers: list[Answer]) -> bool:
    return all(one.status == 200 and one.whole for one in answers)


@pytest.mark.parametrize("requests", [200, pytest.param(1000, marks=pytest.mark.thorough)], ids=str)
def test_nobody_is_lost_whatever_is_killed(deployed: Deployed, requests: int) -> None:
    answers = load(deployed, requests)
    assert all_answered(answers), Counter((one.status, one.end) for one in answers)

    def kill_the_edge() -> None:
        for process in deployed.children("pipeline.serving"):
            process.kill()

    answers = load(deployed, requests, kill_the_edge)
    assert all(one.status == 200 for one in answers), Counter(one.status for one in answers)
    assert {one.tier for one in answers} == {"edge", "cloud"}
    broken = [one for one in answers if not one.whole]  # had begun to stream from the edge
    assert {(one.tier, one.end) for one in broken} <= {("edge", "error")}
    assert len(broken) <= 16  # of 32 at once, those that are streams
    until(lambda: _ready(deployed) == {"edge", "cloud"}, 60)

    def stop_the_cloud() -> None:
        for process in deployed.children("vllm"):
            process.suspend()

    before = fallbacks(deployed, "cloud")
    try:  # more than the edge runs at once, so that the cloud has some
        answers = load(deployed, requests, stop_the_cloud, at_once=96)
    finally:
        for process in deployed.children("vllm"):
            process.resume()
    assert all(one.status == 200 for one in answers), Counter(one.status for one in answers)
    broken = [one for one in answers if not one.whole]
    assert {(one.tier, one.end) for one in broken} <= {("cloud", "error")}
    assert fallbacks(deployed, "cloud") > before
    until(lambda: _ready(deployed) == {"edge", "cloud"}, 60)


def _is_kept(running: Deployed, body: dict[str, Any]) -> bool:
    return call(running, "/v1/completions", body)[1].get("x-quantgate-cache") == "hit"


def test_without_redis_it_goes_on(deployed: Deployed) -> None:
    if deployed.redis is None:
        pytest.skip("no redis-server is installed")
    body = {"model": "tiny", "prompt": "Once", "max_tokens": 8, "temperature": 0}
    call(deployed, "/v1/completions", body)
    assert _is_kept(deployed, body)
    assert all_answered(load(deployed, 80, deployed.redis.kill))
    start = time.monotonic()
    status, shown, _ = call(deployed, "/v1/completions", body)
    assert status == 200 and "x-quantgate-cache" not in shown
    assert time.monotonic() - start < 10
    with subprocess.Popen(deployed.redis.args, stdout=subprocess.DEVNULL) as again:
        try:
            until(lambda: _is_kept(deployed, body), 60)
        finally:
            again.kill()


def test_streams_keep_their_order(deployed: Deployed) -> None:
    """What is streamed is, event after event, the whole answer; many at once."""

    def text(number: int, stream: bool) -> str:
        body = {"model": "tiny", "prompt": f"{KINDS[number % 4]} {number}", "temperature": 0}
        status, shown, raw = call(
            deployed, "/v1/completions", body | {"max_tokens": 32, "stream": stream}
        )
        assert (status, shown["x-quantgate-tier"]) == (200, "edge")
        if not stream:
            return str(json.loads(raw)["choices"][0]["text"])
        events = [line.removeprefix("data: ") for line in raw.decode().split("\n\n") if line]
        chunks = [json.loads(event) for event in events[:-1]]
        return "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"])

    until(lambda: _ready(deployed) == {"edge", "cloud"}, 60)
    numbers = range(4)  # as many as the edge runs without the load's going on to the cloud
    with ThreadPoolExecutor(len(numbers)) as pool:
        whole, streamed = (
            list(pool.map(lambda number, kind=kind: text(number, kind), numbers))
            for kind in (False, True)
        )
    assert streamed == whole
    assert all(whole)


def test_files_that_were_changed_are_not_served(deployed: Deployed) -> None:
    """A server that ended is started again only of what was signed; put right, it comes back."""
    model = deployed.folder / f"registry/tiny/{EDGE}/1/openvino_model.bin"
    right = model.read_bytes()
    model.chmod(0o644)
    model.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    try:
        for process in deployed.children("pipeline.serving"):
            process.kill()
        until(lambda: "not the bundle that" in (deployed.folder / "gateway.log").read_text(), 60)
        answers = [ask(deployed, number) for number in range(1, 10)]  # none of which is kept
    finally:
        model.write_bytes(right)
    assert all_answered(answers)
    assert {one.tier for one in answers} == {"cloud"}
    until(lambda: _ready(deployed) == {"edge", "cloud"}, 120)


def test_it_accounts_for_what_it_served(deployed: Deployed) -> None:
    usage = json.loads(call(deployed, "/usage")[2])["usage"]
    assert {row["feature"] for row in usage} == {"chatbot", "search", "other"}
    asked = [row for row in usage if row["tier"] != "cache"]  # a kept answer costs nothing
    assert {row["tier"] for row in asked} == {"edge", "cloud"}
    assert all(row["device_s"] > 0 and row["cost"] > 0 for row in asked)
    assert b"quantgate_requests_total" in call(deployed, "/metrics/tiny/edge")[2]
    assert b"vllm:" in call(deployed, "/metrics/tiny/cloud")[2]
    said = (deployed.folder / "gateway.log").read_text()
    assert KEY not in said and not any(kind in said for kind in KINDS)


def test_a_rejection_ends_a_tier_in_time(deployed: Deployed) -> None:
    with chdir(deployed.folder / "project"):
        words = ("signoff", "reject", "tiny", EDGE, "--key", release.key(release.ADA))
        quantgate(*words, "--reason", "it lies")
    until(lambda: _ready(deployed) == {"cloud"}, SECONDS + 10)
    until(lambda: not deployed.children("pipeline.serving"), 60)
    answers = load(deployed, 20)
    assert all_answered(answers)
    assert {one.tier for one in answers} == {"cloud"}


def test_it_ends_with_all_that_it_started(deployed: Deployed) -> None:
    started = psutil.Process(deployed.process.pid).children(recursive=True)
    os.kill(deployed.process.pid, signal.SIGTERM)
    assert deployed.process.wait(90) == 0
    _, alive = psutil.wait_procs(started, 30)
    assert not alive
