"""Runs one job in its own process and environment: `run` here, `pipeline.runtime.worker` there.

A job goes over as a JSON file and the result or the error comes back as one. What the tools print
goes to a log, which is kept: it is much, and of no use until something fails; its last line stands
on the terminal meanwhile. The peak resident memory of the worker's process tree is sampled from
outside, the same way for every tool."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import psutil

from pipeline import errors, paths
from pipeline.errors import NoMemory, StageError, WorkerCrashed
from pipeline.runtime import environments
from pipeline.runtime.progress import Progress

SAMPLE_S = 0.2  # a sample costs a millisecond or two
LOG_LINES, LOG_WIDTH = 12, 300  # of a log, in an error
KINDS: dict[int, type[NoMemory | StageError]] = {
    signal.SIGKILL: NoMemory,
    signal.SIGTERM: StageError,
    signal.SIGINT: StageError,
}  # of what comes from outside, and is no fault of what the worker ran
SHADOWS = str(Path(__file__).with_name("untracked"))  # before the packages of a tool environment
ENVIRONMENT = {
    **environments.UNTRACKED,
    "PYTHONPATH": os.pathsep.join(filter(None, (SHADOWS, os.environ.get("PYTHONPATH")))),
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    # tracer and deprecation warnings inside the tools, of no use to their user
    "PYTHONWARNINGS": "ignore",
    "PYTHONUNBUFFERED": "1",
    # many containers set it: each start would then compile 5,000 modules of vLLM again
    "PYTHONDONTWRITEBYTECODE": "",
}

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@dataclass(frozen=True)
class Finished:
    """What a worker returned, how long its process lived, the processor time of its process tree,
    and the most memory that the tree held: resident, and the part of it that no file backs, which
    the kernel cannot take away."""

    value: dict[str, Any]
    wall_s: float
    peak_memory_bytes: int
    peak_anonymous_bytes: int = 0
    processor_s: float = 0.0


def run(
    environment: str, verb: str, job: dict[str, Any], folder: Path, offline: bool = False
) -> Finished:
    """Runs the verb in the environment; `offline` keeps it from fetching anything.

    Raises the worker's own QuantgateError, or StageError if it died.
    """
    request, response = folder / "job.json", folder / "result.json"
    request.write_text(json.dumps(job))
    log = paths.log(folder.name)
    print(f"{folder.name}: starting in environment {environment!r}, log: {log}", flush=True)
    start, before = time.monotonic(), _processor_s()
    with _opened(log) as output:
        process = subprocess.Popen(
            _command(environment, verb, request, str(response)),
            env=_surroundings(offline),
            stdout=output,
            stderr=subprocess.STDOUT,
            close_fds=False,
        )
    sampler, progress = MemorySampler(process.pid), Progress(folder.name, log)
    try:
        code = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        peak = sampler.stop()
        progress.stop()
    wall = time.monotonic() - start
    if not response.is_file():
        raise _died(verb, environment, code, wall, log)
    value = _value(json.loads(response.read_text()))
    return Finished(value, wall, peak.resident_bytes, peak.anonymous_bytes, _processor_s() - before)


def _processor_s() -> float:
    """Of all children that ended and theirs, user and system."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _command(environment: str, verb: str, request: Path, response: str) -> list[str]:
    return [
        str(environments.python(environment)),
        "-m",
        "pipeline.runtime.worker",
        verb,
        str(request),
        response,
        str(os.getpid()),
    ]


def _surroundings(offline: bool) -> dict[str, str]:
    return {**os.environ, **ENVIRONMENT, **(OFFLINE if offline else {})}


def _opened(log: Path) -> BinaryIO:
    log.parent.mkdir(parents=True, exist_ok=True)
    return log.open("wb")


def last_words(log: Path) -> str:
    """The end of a log, to be put behind a sentence that says what died."""
    lines = [
        line.rstrip()[:LOG_WIDTH]
        for line in log.read_text(errors="replace").splitlines()
        if line.strip()
    ]
    return f"Its last words, of {log}:\n  " + "\n  ".join(lines[-LOG_LINES:] or ["(nothing)"])


def _died(
    verb: str, environment: str, code: int, wall_s: float, log: Path
) -> NoMemory | StageError | WorkerCrashed:
    kind = KINDS.get(-code, WorkerCrashed)
    message = (
        f"{verb} in environment {environment!r} {_death(code)} without a result, after"
        f" {wall_s:.0f} s."
    )
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if most != resource.RLIM_INFINITY:
        message += f" A file may have {most:,} bytes at most here (ulimit -f)."
    return kind(f"{message} {last_words(log)}" if kind is WorkerCrashed else message)


class Session:
    """A worker that stays: it answers what it is asked, a line of JSON each way, until it is
    closed.

    `peak_bytes` is the most memory that its process tree held while it worked so far;
    `anonymous_bytes` and `processor_s` are as in Finished, the latter with sessions that ended
    meanwhile."""

    def __init__(
        self, environment: str, verb: str, job: dict[str, Any], request: Path, offline: bool = True
    ) -> None:
        request.write_text(json.dumps(job))
        answers, theirs = os.pipe()
        self._what = (verb, environment)
        self._log = paths.log(f"{request.parent.name}.{request.stem}")
        self._start, self._before_s = time.monotonic(), _processor_s()
        command = _command(environment, verb, request, f"fd:{theirs}")
        with _opened(self._log) as output:
            self._process = subprocess.Popen(
                command,
                env=_surroundings(offline),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
                text=True,
                process_group=0,
            )
        group = str(self._process.pid)
        self._reaper = subprocess.Popen(
            [sys.executable, "-m", "pipeline.runtime.reaper", str(os.getpid()), group],
            process_group=0,
        )
        os.close(theirs)
        self._answers = os.fdopen(answers)
        self.peak_bytes = self.anonymous_bytes = 0
        self.processor_s = 0.0  # known once it is closed

    def ask(self, question: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer; without a question, the one that the worker has to give of itself. Raises the
        worker's own error."""
        if question is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it died: the missing answer tells
                self._process.stdin.write(json.dumps(question) + "\n")
                self._process.stdin.flush()
        sampler, progress = (
            MemorySampler(self._process.pid),
            Progress(self._log.stem, self._log),
        )  # only while it works
        try:
            line = self._answers.readline()
        finally:
            peak = sampler.stop()
            progress.stop()
        self.peak_bytes = max(self.peak_bytes, peak.resident_bytes)
        self.anonymous_bytes = max(self.anonymous_bytes, peak.anonymous_bytes)
        if not line:
            raise _died(
                *self._what, self._process.wait(), time.monotonic() - self._start, self._log
            )
        return _value(json.loads(line))

    def finish(self) -> dict[str, Any]:
        """Nothing more will be asked: the worker's last answer."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        return self.ask()

    def close(self) -> int:
        """Ends the worker; returns the most memory that its process tree held while it worked, in
        bytes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.processor_s = _processor_s() - self._before_s
        self._reaper.kill()
        self._reaper.wait()
        self._answers.close()
        return self.peak_bytes


def _value(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise errors.by_name(answer["type"])(answer["error"])
    value: dict[str, Any] = answer["value"]
    return value


def _death(code: int) -> str:
    if code == -9:
        return "was killed (SIGKILL; the kernel does so when memory runs out, see: quantgate plan)"
    return f"was stopped by signal {-code}" if code < 0 else f"ended with exit code {code}"


class Memory(NamedTuple):
    """Of a process tree: resident, and of that what no file backs."""

    resident_bytes: int
    anonymous_bytes: int


class MemorySampler:
    """Watches the memory of a process and its children until stopped."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._peak = Memory(0, 0)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        try:
            command = self._process.cmdline()
            held = [
                _held(self._process),
                *(_held(child, command) for child in self._process.children(recursive=True)),
            ]
            self._peak = Memory(*map(max, self._peak, map(sum, zip(*held, strict=True))))
        except psutil.Error:  # a process ended between listing and reading: the next sample counts
            return

    def stop(self) -> Memory:
        """The most that was seen of each; looks once more, since short work may lie between two
        samples."""
        self._done.set()
        self._thread.join()
        self._sample()
        return self._peak


def _held(process: psutil.Process, forked_from: list[str] | None = None) -> Memory:
    """Of a process that was forked and executes nothing else, what it does not share with its
    parent: its own pages alone."""
    if forked_from is not None and process.cmdline() == forked_from:
        own = int(process.memory_full_info().uss)
        return Memory(own, own)
    used = process.memory_info()
    return Memory(used.rss, used.rss - getattr(used, "shared", 0))
