"""The commands on a model card do what it says: taken out of the card and run, in the environments
that they are for."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.records import Summary, read
from pipeline.report.card import render
from pipeline.report.snippets import PORT
from pipeline.runtime import environments
from tests.processor import ON_VLLM

pytestmark = pytest.mark.engine
START_S = 300


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where somebody has put the artifacts, under the names in their cards."""
    return tmp_path


def blocks(variant: str, language: str) -> list[str]:
    summary = read(paths.report("tiny", "json"), Summary)
    return re.findall(rf"```{language}\n(.*?)\n```", render(summary, variant), re.DOTALL)


def place(variant: str, folder: Path) -> None:
    (folder / f"tiny-{variant}").symlink_to(
        paths.model("tiny", variant).resolve(), target_is_directory=True
    )


def activated(name: str) -> dict[str, str]:
    """The process environment with an environment's commands first, as after its activation."""
    return {
        **os.environ,
        "PATH": f"{environments.python(name).parent}{os.pathsep}{os.environ['PATH']}",
    }


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_the_openvino_code_generates(run: Path, folder: Path) -> None:
    place("ov-int8", folder)
    (code,) = blocks("ov-int8", "python")
    done = subprocess.run(
        [environments.python("openvino"), "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=START_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()


def test_the_server_starts_and_answers(run: Path, folder: Path) -> None:
    place(ON_VLLM, folder)
    port = free_port()
    serve, ask = (block.replace(str(PORT), str(port)) for block in blocks(ON_VLLM, "sh"))
    with serving(serve, folder, port):
        done = subprocess.run(
            ["sh", "-c", ask], capture_output=True, text=True, check=False, timeout=START_S
        )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["model"] == f"tiny-{ON_VLLM}"
    assert answer["usage"]["completion_tokens"] > 0


@contextlib.contextmanager
def serving(command: str, folder: Path, port: int) -> Iterator[None]:
    """The server in a process group of its own, so that its workers end with it."""
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["sh", "-c", command],
            cwd=folder,
            env=activated("vllm"),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until_healthy(process, f"http://127.0.0.1:{port}/health", log)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(1)
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")
