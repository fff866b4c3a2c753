"""Jobs in processes of their own: results, errors and deaths come back as what they are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline import environments, process, worker
from pipeline.errors import ArtifactError, CalibrationError, StageError, WorkerCrashed

JOBS = """
import os, signal
from pipeline.errors import CalibrationError
def echo(job): return {"got": job["value"]}
def refuse(job): raise CalibrationError("prompts: none")
def die(job): os.kill(os.getpid(), signal.SIGKILL)
def crash(job): raise ValueError("a bug")
def fill(job): raise RuntimeError("cannot write: No space left on device")
def chatter(job):
    import sys
    print("to stdout", flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    return {}
def grow(job):
    data = bytearray(200_000_000)
    import time; time.sleep(0.5)
    return {"size": len(data)}
"""


@pytest.fixture
def folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (project / "pipeline" / "jobs_of_tests.py").write_text(JOBS)
    names = ("echo", "refuse", "die", "crash", "fill", "grow", "chatter")
    text = (project / "pipeline" / "worker.py").read_text()
    rows = "".join(f'    "{name}": "pipeline.jobs_of_tests:{name}",\n' for name in names)
    (project / "pipeline" / "worker.py").write_text(text.replace("VERBS = {\n", "VERBS = {\n" + rows))
    monkeypatch.setattr(environments, "python", lambda name: Path(sys.executable))
    return project


def test_value_time_and_memory_come_back(folder: Path) -> None:
    assert process.run("control", "echo", {"value": [1, "ä"]}, folder).value == {"got": [1, "ä"]}


def test_peak_memory_is_that_of_the_worker(folder: Path) -> None:
    done = process.run("control", "grow", {}, folder)
    assert 200e6 < done.peak_memory_bytes < 500e6
    assert 0.5 < done.wall_s < 10


def test_a_user_error_keeps_its_class(folder: Path) -> None:
    with pytest.raises(CalibrationError, match="prompts: none"):
        process.run("control", "refuse", {}, folder)


def test_deaths_are_told_apart(folder: Path) -> None:
    with pytest.raises(StageError, match="SIGKILL"):
        process.run("control", "die", {}, folder)
    (folder / "result.json").unlink(missing_ok=True)
    with pytest.raises(WorkerCrashed, match=r"exit code 1 .*artifacts/logs/project\.log:(?s:.*)ValueError: a bug"):
        process.run("control", "crash", {}, folder)


def test_what_a_tool_prints_goes_to_the_log(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    process.run("control", "chatter", {}, folder)
    said = capfd.readouterr()
    assert (said.out.count("\n"), said.err) == (1, "")
    assert "log: artifacts/logs/project.log" in said.out
    assert Path("artifacts/logs/project.log").read_text() == "to stdout\nto stderr\n"


def test_a_full_disk_in_whatever_wrapping_is_a_user_error(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="the disk is full"):
        process.run("control", "fill", {}, folder)


def test_every_verb_leads_to_a_function() -> None:
    for target in worker.VERBS.values():
        module, _, function = target.partition(":")
        source = Path(*module.split("."))
        text = (source / "__init__.py" if source.is_dir() else source.with_suffix(".py")).read_text()
        assert f"def {function}(job" in text
