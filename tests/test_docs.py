"""The README is true: its commands run, its files exist, and no file of the pipeline is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import HTTP_BENCHMARK, ROOT, command

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split(" #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def test_there_are_commands() -> None:
    assert {"make repro", "make test", "quantgate doctor", "dvc metrics show artifacts/reports/tiny.metrics.json"} <= set(COMMANDS)


@pytest.mark.engine
@pytest.mark.parametrize("line", [line for line in COMMANDS if not line.startswith("make")])
def test_every_command_of_the_readme_runs(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, line: str
) -> None:
    """In order, in the project that `make repro` was run in (fixture tiny_run); `make test` is what runs this."""
    monkeypatch.chdir(tiny_run)
    if line.startswith("dvc params diff"):
        command("git", "add", "recipes", "params.yaml", "dvc.yaml", ".dvc", ".gitignore")
        command("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "first")
    done = request.getfixturevalue("http_benchmark") if line == HTTP_BENCHMARK else command("sh", "-c", line)
    # The project of the fixture holds a variant that must not pass.
    assert done.returncode == (1 if "require" in line else 0), done.stderr


def test_files_named_in_the_readme_exist() -> None:
    for name in re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:yaml|md))`", README):
        if not name.startswith(("recipes/NAME", "artifacts/")):
            assert (ROOT / name).exists() or (ROOT / "pipeline" / name).exists(), name


def test_every_module_has_its_line() -> None:
    for path in (ROOT / "pipeline").glob("*.py"):
        assert path.name == "__init__.py" or f"{path.name}`" in README, path.name


def test_every_quantizer_is_in_the_table() -> None:
    from pipeline.quantizers.table import TOOLS

    for name in TOOLS:
        assert f"`{name}`" in README
