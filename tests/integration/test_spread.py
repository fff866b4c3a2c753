"""Ray for real, with stages that only wait: jobs, deaths, nodes that are full, and what Ctrl-C
leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.records import Order, Outcome
from pipeline.runtime import environments
from pipeline.runtime.process import Session
from pipeline.spread import command
from tests.conftest import ROOT
from tests.ray_nodes import Job, Waiting, asked, ended, nodes

LONG_S = 300
MARK = "QUANTGATE_TEST_OF_SPREAD"


@pytest.fixture
def waiting(project: Path, tmp_path: Path) -> Waiting:
    if not environments.is_complete("ray"):
        pytest.skip("environment ray is not installed (quantgate setup ray)")
    return Waiting(tmp_path)


@contextlib.contextmanager
def cluster() -> Iterator[Session]:
    with command._session("local") as session:
        assert session.ask()["nodes"] == 1
        yield session


def until(session: Session, jobs: list[Job], done: Callable[[], bool]) -> dict[str, Outcome]:
    """Hands over jobs and waits; the outcomes of those that ended meanwhile."""
    outcomes = asked(session, jobs)
    while not done():
        outcomes |= asked(session, [])
    return outcomes


def test_jobs_end_as_they_do(waiting: Waiting) -> None:
    """One done, one that fails by itself and runs once, one that no node can run, one alone."""
    jobs = [
        waiting.job("a@r"),
        waiting.job("b@r", "fail"),
        waiting.job("c@r", named=["nowhere"]),
        waiting.job("d@r", exclusive=True),
    ]
    with cluster() as session:
        outcomes = ended(session, jobs, 4)
    assert outcomes["a@r"].error is None and outcomes["d@r"].error is None
    assert outcomes["a@r"].node
    assert outcomes["b@r"].error == "it cannot be"
    assert len(waiting.tries("b@r")) == 1
    assert "no node of the cluster has 0.0 GB of memory and nowhere" in str(outcomes["c@r"].error)


def test_a_killed_worker_s_job_runs_again(waiting: Waiting) -> None:
    """And nothing of its first try goes on."""
    with cluster() as session:
        until(session, [waiting.job("a@r", seconds=LONG_S)], lambda: bool(waiting.tries("a@r")))
        first = waiting.tries("a@r")[0].pid
        node = psutil.Process(first).parent()
        assert node is not None
        worker = node.parent()
        assert worker is not None
        worker.kill()
        assert until(session, [], lambda: len(waiting.tries("a@r")) == 2) == {}
        until_none(lambda one: one.pid == first and one.status() != psutil.STATUS_ZOMBIE)


def test_a_stopped_spread_leaves_no_process(
    waiting: Waiting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, str(tmp_path))  # what is started has it too
    # where the tests run in the background, a shell has them ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), cluster() as session:
        until(session, [waiting.job("a@r", seconds=LONG_S)], lambda: bool(waiting.tries("a@r")))
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    own, mark = os.getpid(), str(tmp_path)
    until_none(lambda one: one.pid != own and one.environ().get(MARK) == mark)


ENSURE = """
import sys, types
from pipeline.runtime import environments
from pipeline.spread import cluster
cluster.ray.get_runtime_context = lambda: types.SimpleNamespace(get_node_id=lambda: "")
environments.ensure = lambda name: sys.exit(environments.device())
board = types.SimpleNamespace(begun=types.SimpleNamespace(remote=lambda *about: None))
cluster.carry_out(sys.argv[1], 1, "key", board)
"""


def test_a_node_makes_the_environments_of_the_job_s_device(waiting: Waiting) -> None:
    """Whatever device the node itself was started for."""
    order = Order.model_validate(waiting.job("a@r")["order"]).model_copy(update={"device": "cuda"})
    done = subprocess.run(
        [str(environments.python("ray")), "-c", ENSURE, order.dumps()],
        cwd=ROOT,
        env={**os.environ, "QUANTGATE_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip() == "cuda"


def test_every_job_runs_once(waiting: Waiting, tmp_path: Path) -> None:
    names = [f"{number}@r" for number in range(9)]
    with nodes(tmp_path, [1, 1, 1]) as address, command._session(address) as session:
        assert session.ask()["nodes"] == 3
        outcomes = ended(session, [waiting.job(name, seconds=1) for name in names], len(names))
    assert [outcome.error for outcome in outcomes.values()] == [None] * len(names)
    tries = [waiting.tries(name) for name in names]
    assert [len(one) for one in tries] == [1] * len(names)
    assert {one.node for (one,) in tries} == {"n0", "n1", "n2"}


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can only be mounted by root")
def test_a_full_disk_is_that_node_s(waiting: Waiting, tmp_path: Path) -> None:
    full = tmp_path / "n1" / "spread"
    full.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(full)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("this sandbox does not let tests mount a file system")
    names = [f"{number}@r" for number in range(4)]
    try:
        (full / "filler").write_bytes(b"x" * 4096)
        with nodes(tmp_path, [1, 1]) as address, command._session(address) as session:
            session.ask()
            outcomes = ended(session, [waiting.job(name, seconds=3) for name in names], 4)
            assert (full / "jobs").is_dir()  # it was tried
    finally:
        subprocess.run(["umount", "--lazy", str(full)], check=True)
    assert [outcome.error for outcome in outcomes.values()] == [None] * 4
    assert [[one.node for one in waiting.tries(name)] for name in names] == [["n0"]] * 4


def test_what_is_killed_for_memory_is_tried_on_each_other_node(
    waiting: Waiting, tmp_path: Path
) -> None:
    """And fails where none is left, while others go on."""
    jobs = [waiting.job("a@r", "killed"), waiting.job("b@r", seconds=1)]
    with nodes(tmp_path, [1, 1, 1]) as address, command._session(address) as session:
        session.ask()
        outcomes = ended(session, jobs, 2)
    assert outcomes["b@r"].error is None
    assert sorted(one.node for one in waiting.tries("a@r")) == ["n0", "n1", "n2"]
    lost = outcomes["a@r"]
    assert lost.lacks == "memory" and lost.node
    assert "a@r: ended with exit code -9" in str(lost.error)
    assert f"before it, it was too much for {lost.node}, {lost.node}." in str(lost.error)


def test_a_benchmark_has_its_node_alone(waiting: Waiting, tmp_path: Path) -> None:
    """It waits until the larger node is free; the other one goes on."""
    before, beside = ["a@r", "b@r", "c@r"], ["d@r", "e@r", "f@r"]
    with nodes(tmp_path, [1, 2]) as address, command._session(address) as session:
        session.ask()
        jobs = [waiting.job(name, seconds=8) for name in before]
        outcomes = until(session, jobs, lambda: all(map(waiting.tries, before)))
        jobs = [waiting.job("alone@r", seconds=6, exclusive=True)]
        outcomes |= until(session, jobs, lambda: bool(waiting.tries("alone@r")))
        jobs = [waiting.job(name, seconds=1) for name in beside]
        outcomes |= ended(session, jobs, 7 - len(outcomes))
    assert [outcome.error for outcome in outcomes.values()] == [None] * 7
    (alone,) = waiting.tries("alone@r")
    others = [one for name in (*before, *beside) for one in waiting.tries(name)]
    meanwhile = [one.node for one in others if one.begun < alone.ended and alone.begun < one.ended]
    assert alone.node == "n1" and set(meanwhile) == {"n0"}


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
