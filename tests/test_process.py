"""Jobs in processes of their own: results, errors and deaths come back as what they are."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import CalibrationError, DiskFull, NoMemory, WorkerCrashed
from pipeline.runtime import environments, process, progress, worker

JOBS = """
import os, signal
from pipeline.errors import CalibrationError
def echo(job): return {"got": job["value"]}
def refuse(job): raise CalibrationError("prompts: none")
def die(job): os.kill(os.getpid(), signal.SIGKILL)
def crash(job): raise ValueError("row 7: a bug")
def leave(job): os._exit(1)
def quit(job): raise SystemExit("told to go")
def talk(job, asked):
    yield {"said": 1}
    raise KeyError("lost")
def fill(job): raise RuntimeError("cannot write: No space left on device")
def chatter(job):
    import sys
    print("to stdout", flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    return {}
def work(job):
    import sys, time
    print("  50%| 8/16 [00:04<00:04]", end="\\r", file=sys.stderr, flush=True)
    time.sleep(2.5)
    return {}
def grow(job):
    data = bytearray(200_000_000)
    import time; time.sleep(0.5)
    return {"size": len(data)}
def keep(job):
    import sys
    return {"kept": not sys.dont_write_bytecode}
def fork(job):
    data = bytearray(200_000_000)
    import time
    if os.fork() == 0:
        time.sleep(1)
        os._exit(0)
    time.sleep(1)
    return {"size": len(data)}
"""


@pytest.fixture
def folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (project / "pipeline" / "jobs_of_tests.py").write_text(JOBS)
    names = (
        "echo",
        "refuse",
        "die",
        "crash",
        "leave",
        "quit",
        "talk",
        "fill",
        "grow",
        "fork",
        "keep",
        "chatter",
        "work",
    )
    text = (project / "pipeline" / "runtime" / "worker.py").read_text()
    rows = "".join(f'    "{name}": "pipeline.jobs_of_tests:{name}",\n' for name in names)
    (project / "pipeline" / "runtime" / "worker.py").write_text(
        text.replace("VERBS = {\n", "VERBS = {\n" + rows)
    )
    monkeypatch.setattr(environments, "python", lambda name: Path(sys.executable))
    return project


def test_value_time_and_memory_come_back(folder: Path) -> None:
    assert process.run("control", "echo", {"value": [1, "ä"]}, folder).value == {"got": [1, "ä"]}


def test_peak_memory_is_that_of_the_worker(folder: Path) -> None:
    done = process.run("control", "grow", {}, folder)
    assert 200e6 < done.peak_memory_bytes < 500e6
    assert 0.5 < done.wall_s < 10


def test_what_a_forked_process_shares_counts_once(folder: Path) -> None:
    done = process.run("control", "fork", {}, folder)
    assert 200e6 < done.peak_anonymous_bytes <= done.peak_memory_bytes < 350e6


def test_what_a_worker_compiles_is_kept_wherever_it_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert process.run("control", "keep", {}, folder).value == {"kept": True}


def test_a_user_error_keeps_its_class(folder: Path) -> None:
    with pytest.raises(CalibrationError, match="prompts: none"):
        process.run("control", "refuse", {}, folder)


def test_deaths_are_told_apart(folder: Path) -> None:
    with pytest.raises(NoMemory, match="SIGKILL"):
        process.run("control", "die", {}, folder)
    (folder / "result.json").unlink(missing_ok=True)
    with pytest.raises(WorkerCrashed, match="exit code 1 without a result"):
        process.run("control", "leave", {}, folder)


def test_an_error_that_nobody_foresaw_is_a_sentence_that_names_the_log(folder: Path) -> None:
    for verb, said in (("crash", "ValueError: row 7: a bug"), ("quit", "SystemExit: told to go")):
        with pytest.raises(WorkerCrashed) as error:
            process.run("control", verb, {}, folder)
        assert f"{folder.name}: {said} (at pipeline/jobs_of_tests.py:" in str(error.value)
        log = Path(str(error.value).rpartition(" ")[2])
        assert "Traceback (most recent call last)" in log.read_text()
        assert said in log.read_text()


def test_a_session_that_fails_says_so_too(folder: Path) -> None:
    with contextlib.closing(process.Session("control", "talk", {}, folder / "job.json")) as session:
        assert session.ask() == {"said": 1}
        with pytest.raises(WorkerCrashed, match="KeyError: 'lost'"):
            session.ask()


def test_what_a_tool_prints_goes_to_the_log(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    process.run("control", "chatter", {}, folder)
    said = capfd.readouterr()
    assert (said.out.count("\n"), said.err) == (1, "")
    assert "log: artifacts/logs/project.log" in said.out
    assert Path("artifacts/logs/project.log").read_text() == "to stdout\nto stderr\n"


def test_a_full_disk_in_whatever_wrapping_is_a_user_error(folder: Path) -> None:
    with pytest.raises(DiskFull, match="the disk is full"):
        process.run("control", "fill", {}, folder)


def test_every_verb_leads_to_a_function() -> None:
    for target in worker.VERBS.values():
        module, _, function = target.partition(":")
        source = Path(*module.split("."))
        text = (
            source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
        ).read_text()
        assert f"def {function}(job" in text


def test_the_last_line_of_a_log_is_its_progress(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(
        b"a warning\n" * 2000 + b"\r  0%| 0/16 [00:00<?]\r\x1b[32m 50%| 8/16 [00:04<00:04]\x1b[0m\r"
    )
    assert progress.last_line(log) == "50%| 8/16 [00:04<00:04]"
    log.write_bytes(b"")
    assert progress.last_line(log) == ""


def test_progress_on_a_terminal_is_one_line_that_goes_away(folder: Path) -> None:
    """As a user sees it: a pseudo-terminal, a worker that prints a bar, nothing left of it at the
    end."""
    parent, child = pty.openpty()
    code = (
        "import pathlib, sys; from pipeline.runtime import environments, process;"
        "environments.python = lambda name: sys.executable;"
        "process.run('control', 'work', {}, pathlib.Path.cwd())"
    )
    subprocess.run(
        [sys.executable, "-c", code], stderr=child, stdout=subprocess.DEVNULL, check=True
    )
    os.close(child)
    shown = os.read(parent, 65536).decode()
    os.close(parent)
    assert "project 0:02  50%| 8/16 [00:04<00:04]" in shown
    assert shown.endswith("\r\x1b[2K")
    assert "\n" not in shown
