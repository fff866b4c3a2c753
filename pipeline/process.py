"""Runs one job in its own process and environment: `run` here, `pipeline.worker` there.

A job goes over as a JSON file and the result or the error comes back as one; the worker's own output is shown as it
comes. The peak resident memory of the worker's process tree is sampled from outside, the same way for every tool.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline import environments, errors
from pipeline.errors import StageError, WorkerCrashed

SAMPLE_S = 0.1
INTERRUPTIONS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)  # from outside, and no fault of what the worker ran
ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",  # tracer and deprecation warnings inside the tools, of no use to their user
    "PYTHONUNBUFFERED": "1",
}

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@dataclass(frozen=True)
class Finished:
    """What a worker returned, how long its process lived and the most memory its process tree held."""

    value: dict[str, Any]
    wall_s: float
    peak_memory_bytes: int


def run(environment: str, verb: str, job: dict[str, Any], folder: Path, offline: bool = False) -> Finished:
    """Runs the verb in the environment; `offline` keeps it from fetching anything.

    Raises the worker's own QuantgateError, or StageError if it died.
    """
    request, response = folder / "job.json", folder / "result.json"
    request.write_text(json.dumps(job))
    python = str(environments.python(environment))
    command = [python, "-m", "pipeline.worker", verb, str(request), str(response), str(os.getpid())]
    print(f"{folder.name}: starting in environment {environment!r}", flush=True)
    start = time.monotonic()
    surroundings = {**os.environ, **ENVIRONMENT, **(OFFLINE if offline else {})}
    process = subprocess.Popen(command, env=surroundings, close_fds=False)
    sampler = _Sampler(process.pid)
    try:
        code = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        peak = sampler.stop()
    wall = time.monotonic() - start
    if not response.is_file():
        kind = StageError if -code in INTERRUPTIONS else WorkerCrashed
        raise kind(f"{verb} in environment {environment!r} {_death(code)} without a result, after {wall:.0f} s.")
    answer = json.loads(response.read_text())
    if "error" in answer:
        raise errors.by_name(answer["type"])(answer["error"])
    return Finished(answer["value"], wall, peak)


def _death(code: int) -> str:
    if code == -9:
        return "was killed (SIGKILL; the kernel does so when memory runs out, see: quantgate plan)"
    return f"was stopped by signal {-code}" if code < 0 else f"ended with exit code {code}"


class _Sampler:
    """Watches the resident memory of a process and its children until stopped."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_S):
            try:
                tree = [self._process, *self._process.children(recursive=True)]
                self._peak = max(self._peak, sum(process.memory_info().rss for process in tree))
            except psutil.Error:  # a process ended between listing and reading: the next sample counts
                continue

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self._peak
