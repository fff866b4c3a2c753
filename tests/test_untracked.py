"""Nothing that quantgate starts reports its use to anybody, or leaves anything but caches in the
home folder."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.runtime import environments, process
from tests.conftest import ROOT, watched

REPORTS = ("telemetry", "analytics", "usage_stats", "user_id", "cid")


def run(script: str, surroundings: dict[str, str]) -> str:
    env = {**os.environ, **surroundings}
    return subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
    ).stdout


def test_the_watch_sees_who_is_called(tmp_path: Path) -> None:
    """Or an empty list would tell nothing."""
    script = """
import contextlib, socket, urllib.request
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
with contextlib.suppress(OSError): direct.open("http://reports.invalid/", timeout=1)
with contextlib.suppress(OSError): socket.create_connection(("192.0.2.1", 80), timeout=0.01)
with contextlib.suppress(OSError): socket.create_connection(("127.0.0.1", 9), timeout=0.01)
with contextlib.suppress(OSError):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.2", 80))
"""
    run(script, watched(tmp_path))
    calls = " ".join(
        line.split(" by ")[0] for line in (tmp_path / "calls.txt").read_text().splitlines()
    )
    assert all(name in calls for name in ("reports.invalid", "192.0.2.1", "192.0.2.2"))
    assert "127.0.0.1" not in calls


def test_workers_have_no_openvino_telemetry_and_the_rest_is_told_not_to() -> None:
    script = """
import os
try: import openvino_telemetry
except ImportError as error: print(error)
print(os.environ["VLLM_NO_USAGE_STATS"], os.environ["HF_HUB_DISABLE_TELEMETRY"])
"""
    assert run(script, process.ENVIRONMENT).splitlines() == [
        "quantgate's workers report nothing",
        "1 1",
    ]


def test_a_library_in_the_command_itself_is_told_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in environments.UNTRACKED:
        monkeypatch.setenv(name, "no")
    cli.main(["require", "no-such-recipe"])
    assert {name: os.environ[name] for name in environments.UNTRACKED} == environments.UNTRACKED


def test_dvc_is_told_in_the_project() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc" / "config")
    assert (config["core"]["analytics"], config["core"]["check_update"]) == ("false", "false")


@pytest.mark.engine
def test_the_whole_tiny_recipe_calls_nobody(tiny_folder: Path) -> None:
    calls = tiny_folder / "calls.txt"
    assert not calls.exists(), calls.read_text()
    written = [path.relative_to(tiny_folder / "home") for path in (tiny_folder / "home").rglob("*")]
    assert [path for path in written if any(word in str(path).lower() for word in REPORTS)] == []
    assert {path.parts[0] for path in written} <= {".cache", ".config", ".triton"}


@pytest.mark.engine
def test_the_terminal_of_the_tiny_recipe_is_without_the_tools_noise(tiny_folder: Path) -> None:
    said = (tiny_folder / "said.txt").read_text()
    assert [
        word
        for word in ("torchao", "_pytree", "Loading weights", "Traceback", "INFO:nncf", "it/s]")
        if word in said
    ] == []
    logs = tiny_folder / "run" / "artifacts" / "logs"
    assert "torchao" in "".join(path.read_text(errors="replace") for path in logs.iterdir())
