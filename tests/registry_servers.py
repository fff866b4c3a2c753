"""Real servers behind the registries: MLflow, moto in place of S3 (environment `servers`), Debian's
docker-registry, and tests/hub_server.py in place of the Hub. Each keeps what it is sent below one
folder, listens on 127.0.0.1 at a free port, and dies with the process that started it, however that
dies."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from pipeline.runtime import environments
from tests import hub_server
from tests.conftest import ROOT

KINDS = ("folder", "s3", "oci", "mlflow", "hub")
BUCKET = "bundles"
START_S = 90.0


@dataclass
class Served:
    """A registry's URL, what a process needs in its environment to use it, where the server keeps
    files, and its log."""

    kind: str
    url: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    log: Path | None = None


def missing(kind: str) -> str | None:
    """Why this kind cannot run here, None if it can."""
    if kind in ("s3", "mlflow") and not environments.is_complete("servers"):
        return (
            "environment servers is not installed (python -m pipeline.runtime.environments servers)"
        )
    if kind == "oci" and not shutil.which("docker-registry"):
        return "no docker-registry here (apt-get install docker-registry)"
    return None


@contextlib.contextmanager
def serving(kind: str, folder: Path) -> Iterator[Served]:
    folder.mkdir(parents=True, exist_ok=True)
    with {"folder": _folder, "s3": _s3, "oci": oci, "mlflow": _mlflow, "hub": _hub}[kind](
        folder
    ) as served:
        yield served


@contextlib.contextmanager
def _folder(folder: Path) -> Iterator[Served]:
    (folder / "registry").mkdir(exist_ok=True)  # as the servers are there before anything is
    yield Served("folder", str(folder / "registry"), folder / "registry")


@contextlib.contextmanager
def _s3(folder: Path) -> Iterator[Served]:
    port = free_port()
    command = [
        str(environments.python("servers")),
        "-m",
        "moto.server",
        "-H",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    with process(command, folder, f"http://127.0.0.1:{port}/moto-api/"):
        url = f"http://127.0.0.1:{port}"
        requests.put(f"{url}/{BUCKET}", timeout=30).raise_for_status()
        keys = {
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        yield Served(
            "s3", f"s3://{BUCKET}/models", folder, {**keys, "AWS_ENDPOINT_URL": url}, folder / "log"
        )


@contextlib.contextmanager
def oci(folder: Path, settings: str = "") -> Iterator[Served]:
    """`settings`: more lines of the registry's configuration."""
    port = free_port()
    configuration = folder / "registry.yml"
    configuration.write_text(
        "version: 0.1\nlog: {level: warn}\nstorage:\n  filesystem: {rootdirectory:"
        f" {folder / 'data'}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n{settings}"
    )
    with process(
        ["docker-registry", "serve", str(configuration)], folder, f"http://127.0.0.1:{port}/"
    ):
        yield Served(
            "oci", f"oci+http://127.0.0.1:{port}/team/models", folder / "data", {}, folder / "log"
        )


@contextlib.contextmanager
def _mlflow(folder: Path) -> Iterator[Served]:
    port = free_port()
    python = environments.python("servers")
    database = f"sqlite:///{folder / 'mlflow.db'}"
    command = [
        str(python),
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        database,
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    settings = {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with process(command, folder, f"http://127.0.0.1:{port}/health", settings):
        yield Served(
            "mlflow", f"mlflow+http://127.0.0.1:{port}", folder / "artifacts", {}, folder / "log"
        )


@contextlib.contextmanager
def _hub(folder: Path) -> Iterator[Served]:
    with hub_server.running(folder / "data", token="right") as hub:
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": "right",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(folder / "home"),
        }
        yield Served("hub", "hf://team", folder / "data", settings)


@contextlib.contextmanager
def process(
    command: list[str], folder: Path, answers: str, settings: dict[str, str] | None = None
) -> Iterator[None]:
    """A server in a process group of its own, from its first answer to the end of the block."""
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(settings or {})},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    reaper = subprocess.Popen(
        [sys.executable, "-m", "pipeline.runtime.reaper", str(os.getpid()), str(server.pid)],
        cwd=ROOT,
    )
    try:
        _wait(server, answers, folder / "log")
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        reaper.kill()
        reaper.wait()


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            requests.get(url, timeout=5)
        except requests.RequestException:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(
        f"{server.args!r} does not answer at {url}:\n{log.read_text(errors='replace')[-2000:]}"
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def use(server: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    # The library read its environment when it was imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return server
