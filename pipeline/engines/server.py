"""An engine's server on one artifact, started and stopped by quantgate: in a process group of its
own, told to stop when quantgate dies, under the settings that the artifact was measured with. Which
server that is, and how it is started, is in the module of the engine's row."""

from __future__ import annotations

import contextlib
import importlib
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

from pipeline.capabilities import ENGINES
from pipeline.errors import EvaluationError
from pipeline.recipe import Serve
from pipeline.runtime import process
from pipeline.runtime.process import MemorySampler

HOST = "127.0.0.1"
START_TIMEOUT_S = 1800.0  # compiling for a large model takes minutes on a CPU
STOP_TIMEOUT_S = 30.0
POLL_S = 0.1
# Nothing that a server of local files needs; its clients' key it gets by itself.
SECRETS = (
    "QUANTGATE_API_KEY",
    "VLLM_API_KEY",
    "OPENAI_API_KEY",
    "HF_TOKEN",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
)


@dataclass(frozen=True)
class Served:
    """What is served, under which name, and by which of the engine's servers, None: the usual one.
    `digest`: of the artifact's files."""

    engine: str
    artifact: Path
    serve: Serve
    name: str
    digest: str = ""
    server: str | None = None

    @property
    def pinned(self) -> str:
        """The name by which a client asks for this very artifact: under it no other answers."""
        return pinned(self.name, self.digest)


@dataclass(frozen=True)
class Server:
    """`url` ends in /v1. `load_s` runs from the start of the process to the first answer that it is
    healthy."""

    url: str
    model: str
    load_s: float
    memory: MemorySampler


def pinned(name: str, digest: str) -> str:
    return f"{name}@sha256:{digest}"


def of(what: Served) -> Any:
    """The module that says how the server is started: `command`, which may write into a folder,
    `environment`, `settings` and `KEY`, the variable by which it learns what its clients must know.
    Raises EvaluationError where quantgate starts no such server."""
    engine = ENGINES[what.engine]
    name = what.server or next(iter(engine.servers), "none")
    if name not in engine.servers:
        known = ", ".join(engine.servers) or "none"
        raise EvaluationError(
            f"server of {engine.name}: found {name}, expected one of those that quantgate starts:"
            f" {known}."
        )
    return importlib.import_module(engine.servers[name])


def surroundings(what: Served, key: str | None = None) -> dict[str, str]:
    """The environment variables of the server, with `key`, which a command line would show to
    others."""
    module = of(what)
    inherited = {name: value for name, value in os.environ.items() if name not in SECRETS}
    own = {**process.ENVIRONMENT, **process.OFFLINE, **module.environment(what.serve)}
    return {**inherited, **own, **({module.KEY: key} if key else {})}


def leash(cores: list[int]) -> list[str]:
    """What stands before a command that is to end with this process, on these cores."""
    kept = ",".join(map(str, cores))
    return [sys.executable, "-m", "pipeline.runtime.leash", str(os.getpid()), kept]


@contextlib.contextmanager
def served(
    what: Served, folder: Path, timeout_s: float = START_TIMEOUT_S, key: str | None = None
) -> Iterator[Server]:
    """A server on the loopback interface; its log goes to the folder. Raises EvaluationError if it
    does not start."""
    port, log, start = free_port(), folder / "server.log", time.monotonic()
    server = started(what, port, folder, log, key)
    try:
        memory = MemorySampler(server.pid)
        try:
            _wait(server, port, log, start + timeout_s)
            url = f"http://{HOST}:{port}/v1"
            yield Server(url, what.name, time.monotonic() - start, memory)
        finally:
            memory.stop()
    finally:
        stop(server)


def started(
    what: Served, port: int, folder: Path, log: Path, key: str | None = None
) -> subprocess.Popen[bytes]:
    """Its process, which is not ready yet. Ended by `stop`."""
    with log.open("w") as output:
        return subprocess.Popen(
            of(what).command(what, HOST, port, folder),
            env=surroundings(what, key),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
        return port


def _wait(server: subprocess.Popen[bytes], port: int, log: Path, deadline: float) -> None:
    while not _healthy(port):
        if server.poll() is not None:
            raise EvaluationError(
                f"the server ended with exit code {server.returncode} before it was ready."
                f" {process.last_words(log)}"
            )
        if time.monotonic() > deadline:
            raise EvaluationError(f"the server was not ready in time. {process.last_words(log)}")
        time.sleep(POLL_S)


def _healthy(port: int) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://{HOST}:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def stop(server: subprocess.Popen[bytes]) -> None:
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
