"""A worker that stays and answers: the real process, on the fake engine in the control
environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.benchmark.trace import build
from pipeline.errors import NoMemory, WorkerCrashed
from pipeline.recipe import Benchmark, Serve
from pipeline.records import Replay
from pipeline.runtime import environments
from pipeline.runtime.process import Session

pytestmark = pytest.mark.skipif(
    not environments.is_complete("control"), reason="the control environment is not installed"
)
PLAN = Benchmark(concurrency=[1, 2], prompt_tokens=4, output_tokens=3, requests=4)


def job(folder: Path, **changes: Any) -> dict[str, Any]:
    trace = folder / "trace.json"
    build([[token % 30 + 2 for token in range(50)]], PLAN, "x").write(trace)
    return {
        "engine": "fake",
        "artifact": ".",
        "serve": Serve(max_model_len=64).model_dump(),
        "trace": str(trace),
        **changes,
    }


STARTS_A_REAPER = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-m", "pipeline.runtime.reaper", str(os.getpid()), sys.argv[1]])
print(flush=True)
time.sleep(600)
"""


@pytest.fixture
def others() -> set[psutil.Process]:
    """What ran before: servers, and the reapers of them, that other tests left running for the
    next."""
    return set(psutil.Process().children())


def processes_of_the_session(others: set[psutil.Process]) -> dict[str, psutil.Process]:
    """By the module that each runs."""
    return {
        process.cmdline()[2]: process
        for process in psutil.Process().children()
        if process not in others
    }


@pytest.fixture
def session(project: Path, tmp_path: Path, others: set[psutil.Process]) -> Iterator[Session]:
    opened = Session("control", "session", job(tmp_path), tmp_path / "request.json")
    yield opened
    opened.close()


def test_it_answers_until_it_is_told_that_it_is_over(session: Session) -> None:
    assert session.ask()["load_s"] > 0
    for repeat in range(2):
        answer = session.ask(
            {
                "loads": [{"concurrency": 2}, {"rate_per_s": 1000.0, "fraction": 0.5}],
                "repeat": repeat,
            }
        )
        closed, opened = (Replay.model_validate(replay) for replay in answer["replays"])
        assert (closed.loop, closed.concurrency, closed.repeat) == ("closed", 2, repeat)
        assert (opened.loop, opened.rate_per_s, opened.fraction) == ("open", 1000.0, 0.5)
        for replay in (closed, opened):
            assert [request.tokens for request in replay.requests] == [3] * 4
            assert not any(request.failed for request in replay.requests)
            assert 0 <= replay.others_share <= 1
    assert session.finish()["settings"]["device"] == "cpu"
    assert session.close() > 1e6  # bytes of a Python process


def test_its_own_error_comes_over(project: Path, tmp_path: Path) -> None:
    session = Session("control", "session", job(tmp_path, engine="nope"), tmp_path / "request.json")
    with pytest.raises(
        WorkerCrashed,
        match=(
            r"KeyError: 'nope' \(at pipeline/engines/__init__.py:\d+\). The traceback is in"
            r" artifacts/.tmp/errors/"
        ),
    ):
        session.ask()
    session.close()


def test_a_killed_worker_is_said(session: Session, others: set[psutil.Process]) -> None:
    session.ask()
    os.kill(processes_of_the_session(others)["pipeline.runtime.worker"].pid, signal.SIGKILL)
    with pytest.raises(NoMemory, match="was killed"):
        session.ask({"loads": [], "repeat": 0})


def test_closing_leaves_nothing_running(
    project: Path, tmp_path: Path, others: set[psutil.Process]
) -> None:
    session = Session("control", "session", job(tmp_path), tmp_path / "request.json")
    session.ask()
    processes = processes_of_the_session(others)
    assert set(processes) == {"pipeline.runtime.worker", "pipeline.runtime.reaper"}
    session.close()
    assert not any(process.is_running() for process in processes.values())


def test_what_a_worker_started_dies_with_quantgate_too(tmp_path: Path) -> None:
    left = subprocess.Popen(
        ["sh", "-c", "sleep 600 & echo $! && wait"],
        process_group=0,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert left.stdout is not None
    grandchild = psutil.Process(int(left.stdout.readline()))
    quantgate = subprocess.Popen(
        [sys.executable, "-c", STARTS_A_REAPER, str(left.pid)], stdout=subprocess.PIPE
    )
    assert quantgate.stdout is not None
    quantgate.stdout.readline()
    quantgate.kill()
    quantgate.wait()
    assert left.wait(timeout=10) == -signal.SIGKILL
    grandchild.wait(timeout=10)
