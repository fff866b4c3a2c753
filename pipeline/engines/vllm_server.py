"""`vllm serve` on one artifact, started and stopped by quantgate: on the loopback interface only,
in a process group of its own, told to stop when quantgate dies, under the settings of the engine in
process (pipeline/engines/vllm)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import engines
from pipeline.engines import vllm
from pipeline.errors import EvaluationError
from pipeline.recipe import Serve
from pipeline.runtime import environments, process
from pipeline.runtime.process import MemorySampler

HOST = "127.0.0.1"
START_TIMEOUT_S = 1800.0  # compiling for a large model takes minutes on a CPU
STOP_TIMEOUT_S = 30.0
POLL_S = 0.1
# Nothing that a server of local files on the loopback needs.
SECRETS = ("QUANTGATE_API_KEY", "VLLM_API_KEY", "OPENAI_API_KEY", "HF_TOKEN")


@dataclass(frozen=True)
class Server:
    """`url` ends in /v1. `load_s` runs from the start of the process to the first answer that it is
    healthy."""

    url: str
    model: str
    load_s: float
    memory: MemorySampler


@contextlib.contextmanager
def served(
    artifact: Path, serve: Serve, name: str, folder: Path, timeout_s: float = START_TIMEOUT_S
) -> Iterator[Server]:
    """A server of the artifact under the name; its log goes to the folder. Raises EvaluationError
    if it does not start."""
    port, log, start = _free_port(), folder / "server.log", time.monotonic()
    with log.open("w") as output:
        server = subprocess.Popen(
            command(artifact, serve, name, port),
            env=surroundings(serve),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    try:
        memory = MemorySampler(server.pid)
        try:
            _wait(server, port, log, start + timeout_s)
            yield Server(f"http://{HOST}:{port}/v1", name, time.monotonic() - start, memory)
        finally:
            memory.stop()
    finally:
        _stop(server)


def command(artifact: Path, serve: Serve, name: str, port: int, host: str = HOST) -> list[str]:
    python = environments.python("vllm")
    cores = ",".join(map(str, engines.cores(serve)))
    leash = [sys.executable, "-m", "pipeline.runtime.leash", str(os.getpid()), cores]
    where = [
        "--host",
        host,
        "--port",
        str(port),
        "--served-model-name",
        name,
        "--disable-uvicorn-access-log",
    ]
    return [
        *leash,
        str(python),
        str(python.with_name("vllm")),
        "serve",
        str(artifact),
        *where,
        *options(vllm.arguments(serve)),
    ]


def options(arguments: dict[str, Any]) -> list[str]:
    """LLM()'s arguments as options of the command: max_num_seqs=8 is --max-num-seqs 8, eager=False
    is --no-eager."""
    words: list[str] = []
    for key, value in arguments.items():
        name = key.replace("_", "-")
        words += (
            [f"--{name}" if value else f"--no-{name}"]
            if isinstance(value, bool)
            else [f"--{name}", str(value)]
        )
    return words


def surroundings(serve: Serve) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key not in SECRETS}
    return {**inherited, **process.ENVIRONMENT, **process.OFFLINE, **vllm.environment(serve)}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
        return port


def _wait(server: subprocess.Popen[bytes], port: int, log: Path, deadline: float) -> None:
    while not _healthy(port):
        if server.poll() is not None:
            raise EvaluationError(
                f"vllm serve ended with exit code {server.returncode} before it was ready."
                f" {process.last_words(log)}"
            )
        if time.monotonic() > deadline:
            raise EvaluationError(f"vllm serve was not ready in time. {process.last_words(log)}")
        time.sleep(POLL_S)


def _healthy(port: int) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://{HOST}:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Asks, then kills whatever is left of the group: the engine and its workers are processes of
    their own."""
    try:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_TIMEOUT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
