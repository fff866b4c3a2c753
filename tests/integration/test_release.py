"""The real artifact, signed off, published and served as it was measured; and not at all once a
byte of it changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from pipeline import paths
from pipeline.records import artifact
from tests import release
from tests.conftest import command
from tests.integration.test_card import START_S, free_port
from tests.processor import ON_VLLM

pytestmark = pytest.mark.engine
VARIANT = ON_VLLM


@pytest.fixture
def bundle(tiny_untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle in a folder, published from a copy of the project that `make repro` was run in."""
    shutil.copytree(tiny_untouched, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    release.write_policy()
    for words in (
        ("quantgate", "signoff", "request", "tiny", VARIANT, "--by", release.AUTHOR),
        ("quantgate", "signoff", "approve", "tiny", VARIANT, "--key", release.key(release.ADA)),
        ("git", "add", "signoff"),
        ("git", "commit", "-qm", "signed off"),
        (
            "quantgate",
            "publish",
            "tiny",
            VARIANT,
            "--to",
            "../registry",
            "--key",
            release.key(release.CI),
            "--version",
            "1",
        ),
    ):
        done = command(*words)
        assert done.returncode == 0, done.stderr
    return Path("../registry/tiny", VARIANT, "1")


def serve(bundle: Path, port: int, *more: str) -> subprocess.Popen[str]:
    quantgate = str(Path(sys.executable).with_name("quantgate"))
    words = [quantgate, "serve", str(bundle), "--port", str(port), *more]
    return subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, process_group=0
    )


def answer(port: int, model: str, key: str) -> str:
    """The server's greedy continuation, once it is up; to who knows its key."""
    body = json.dumps(
        {"model": model, "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
    ).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        body,
        {"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return str(json.load(reply)["choices"][0]["text"])
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:
            time.sleep(1)
    raise AssertionError("the server did not start")


def test_vllm_serves_a_bundle_until_it_is_stopped(bundle: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("a-key\n")
    files = artifact.hash_files(paths.model("tiny", VARIANT))
    assert [artifact.hash_file(bundle / file.path, file.path) for file in files] == files
    assert command("quantgate", "verify", str(bundle), "--recheck").returncode == 0
    port = free_port()
    server = serve(bundle, port, "--api-key-file", str(key))
    try:
        assert answer(port, f"tiny-{VARIANT}", "a-key").strip()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            answer(port, f"tiny-{VARIANT}", "another")
        engine = psutil.Process(server.pid).children(recursive=True)
        server.terminate()
        assert server.wait(60) == 0
        _, alive = psutil.wait_procs(engine, 30)
        assert not alive
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)


def test_a_changed_bundle_is_not_served(bundle: Path) -> None:
    weights = bundle / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    server = serve(bundle, free_port())
    _, said = server.communicate(timeout=120)
    assert server.returncode == 3
    assert "model.safetensors: " in said
