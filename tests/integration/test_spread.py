"""Ray for real, with a project whose stages only wait: jobs, deaths, and what Ctrl-C leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.records import Machine, Needs, Order, Outcome, Result, Revision
from pipeline.runtime import environments
from pipeline.runtime.process import Session
from pipeline.spread import command
from pipeline.store import inputs
from pipeline.store.results import Store
from tests.conftest import ROOT

CLI = """
import os, pathlib, sys, time

def main():
    verb, note, seconds = sys.argv[1:]
    with open(note, "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(float(seconds))
    if verb == "fail":
        print("quantgate: it cannot be", file=sys.stderr)
        return 2
    return 0
"""
FILES = {"dvc.yaml": "stages: {}\n", "pipeline/__init__.py": "", "pipeline/cli.py": CLI}
LONG_S = 300
MARK = "QUANTGATE_TEST_OF_SPREAD"

Job = dict[str, Any]


@pytest.fixture
def job(project: Path, tmp_path: Path) -> Callable[..., Job]:
    """A job of a stage that writes its process id into a note, waits, and whose result the store
    has."""
    if not environments.is_complete("ray"):
        pytest.skip("environment ray is not installed (quantgate setup ray)")
    store = Store(str(tmp_path / "store"))
    for name, text in FILES.items():
        (tmp_path / "stub" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stub" / name).write_text(text)
    files = [inputs.artifact.hash_file(tmp_path / "stub" / name, name) for name in FILES]
    for file in files:
        store.objects.keep(file, tmp_path / "stub" / file.path)

    def made(stage: str, verb: str = "wait", seconds: float = 0, **needs: Any) -> Job:
        key = inputs.hashed([tmp_path / "stub" / "dvc.yaml"])[0].sha256[:-1] + stage[0]
        machine = Machine(name="n", cpu="c", cores=1, memory_bytes=1)
        store.put(
            Result(
                stage=stage,
                key=key,
                machine=machine,
                machine_bound=False,
                wall_s=1,
                cost=None,
                outs=[],
            )
        )
        order = Order(
            stage=stage,
            command=f"quantgate {verb} {tmp_path / stage} {seconds}",
            key=key,
            store=str(tmp_path / "store"),
            files=files,
            revision=Revision(commit=None, changed=[]),
            environments=[],
            device="cpu",
        )
        asked = {"memory_bytes": 0, "gpus": 0, "named": [], "exclusive": False} | needs
        return {"order": order.model_dump(), "needs": Needs(**asked).model_dump()}

    return made


@contextlib.contextmanager
def cluster() -> Iterator[Session]:
    with command._session("local") as session:
        assert session.ask()["nodes"] == 1
        yield session


def ended(session: Session, jobs: list[Job], count: int) -> dict[str, Outcome]:
    """The outcomes of so many jobs."""
    outcomes: dict[str, Outcome] = {}
    while len(outcomes) < count:
        answer = session.ask({"submit": jobs, "wait_s": 0.5})
        jobs = []
        outcomes |= {one["stage"]: Outcome.model_validate(one) for one in answer["ended"]}
    return outcomes


def noted(session: Session, jobs: list[Job], note: Path, count: int = 1) -> list[int]:
    """The process ids of a job's tries, once there are so many."""
    while True:
        assert session.ask({"submit": jobs, "wait_s": 0.5})["ended"] == []
        jobs = []
        tries = note.read_text().split() if note.is_file() else []
        if len(tries) >= count:
            return [int(pid) for pid in tries]


def test_jobs_end_as_they_do(job: Callable[..., Job], tmp_path: Path) -> None:
    """One done, one that fails by itself and runs once, one that no node can run, one alone."""
    jobs = [
        job("a@r"),
        job("b@r", "fail"),
        job("c@r", named=["nowhere"]),
        job("d@r", exclusive=True),
    ]
    with cluster() as session:
        outcomes = ended(session, jobs, 4)
    assert outcomes["a@r"].error is None and outcomes["d@r"].error is None
    assert outcomes["a@r"].node
    assert outcomes["b@r"].error == "it cannot be"
    assert len((tmp_path / "b@r").read_text().split()) == 1
    assert "no node of the cluster has 0.0 GB of memory and nowhere" in str(outcomes["c@r"].error)


def test_a_killed_worker_s_job_runs_again(job: Callable[..., Job], tmp_path: Path) -> None:
    """And nothing of its first try goes on."""
    with cluster() as session:
        (first,) = noted(session, [job("a@r", seconds=LONG_S)], tmp_path / "a@r")
        node = psutil.Process(first).parent()
        assert node is not None
        worker = node.parent()
        assert worker is not None
        worker.kill()
        tries = noted(session, [], tmp_path / "a@r", count=2)
        assert len(tries) == 2
        until_none(lambda one: one.pid == first and one.status() != psutil.STATUS_ZOMBIE)


def test_a_stopped_spread_leaves_no_process(
    job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, str(tmp_path))  # what is started has it too
    # where the tests run in the background, a shell has them ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), cluster() as session:
        noted(session, [job("a@r", seconds=LONG_S)], tmp_path / "a@r")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    own, mark = os.getpid(), str(tmp_path)
    until_none(lambda one: one.pid != own and one.environ().get(MARK) == mark)


ENSURE = """
import sys, types
from pipeline.runtime import environments
from pipeline.spread import cluster
environments.ensure = lambda name: sys.exit(environments.device())
board = types.SimpleNamespace(begun=types.SimpleNamespace(remote=lambda *about: None))
cluster.carry_out(sys.argv[1], 1, "key", board)
"""


def test_a_node_makes_the_environments_of_the_job_s_device(job: Callable[..., Job]) -> None:
    """Whatever device the node itself was started for."""
    order = Order.model_validate(job("a@r")["order"]).model_copy(update={"device": "cuda"})
    done = subprocess.run(
        [str(environments.python("ray")), "-c", ENSURE, order.dumps()],
        cwd=ROOT,
        env={**os.environ, "QUANTGATE_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip() == "cuda"


def until_none(meant: Callable[[psutil.Process], bool]) -> None:
    """Waits until no process is meant: a signal takes its time to arrive."""
    deadline = time.monotonic() + 20
    while left := [one for one in psutil.process_iter() if is_so(one, meant)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def is_so(process: psutil.Process, meant: Callable[[psutil.Process], bool]) -> bool:
    with contextlib.suppress(psutil.Error):
        return meant(process)
    return False
