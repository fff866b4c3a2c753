"""The README is true: its commands run, its files exist, and no file of the pipeline is left out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import cli
from tests.conftest import HTTP_BENCHMARK, ROOT, command
from tests.release import person, public

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split(" #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def test_there_are_commands() -> None:
    assert {"make repro", "make test", "quantgate doctor", "dvc metrics show artifacts/metrics/tiny"} <= set(COMMANDS)


@pytest.mark.engine
@pytest.mark.parametrize("line", [line for line in COMMANDS if not line.startswith("make")])
def test_every_command_of_the_readme_runs(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, line: str
) -> None:
    """In order, in the project that `make repro` was run in (fixture tiny_run); `make test` is what runs this."""
    monkeypatch.chdir(tiny_run)
    if line.startswith("git add recipes"):
        _name_in_policy()
    done = request.getfixturevalue("http_benchmark") if line == HTTP_BENCHMARK else command("sh", "-c", line)
    # The project of the fixture holds a variant that must not pass.
    assert done.returncode == (1 if "require" in line else 0), done.stderr


def _name_in_policy() -> None:
    """What the README has its reader do by hand with the lines that `quantgate signoff key` printed."""
    people = {"approvers": ("ada@example.org", "reviewer", "../ada.pem"), "publishers": ("ci", "publisher", "../ci.pem")}
    policy = Path("signoff/policy.yaml")
    lines = [line for line in policy.read_text().splitlines() if not line.startswith(("approvers", "publishers"))]
    for section, (name, role, key) in people.items():
        lines += [f"{section}:", person(name, role, public(key)).rstrip()]
    policy.write_text("\n".join(lines) + "\n")


def test_the_ci_examples_call_commands_that_exist() -> None:
    found = []
    for path in (ROOT / "docs" / "ci").iterdir():
        found += re.findall(r"(?:quantgate|dvc) .*", "\n".join(_scripts(YAML(typ="safe").load(path.read_text()))))
    calls = [shlex.split(line.split(" #")[0]) for line in found]
    assert {tuple(call[:2]) for call in calls} == {
        ("quantgate", "fetch"),
        ("quantgate", "publish"),
        ("dvc", "repro"),
        ("dvc", "pull"),
        ("dvc", "push"),
    }
    for call in calls:
        if call[0] == "quantgate":
            cli.parser().parse_args(call[1:])


def _scripts(node: object) -> Iterator[str]:
    """Every line of shell in a workflow, of GitHub (`run`) or GitLab (`script`)."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("run", "script"):
                yield from [value] if isinstance(value, str) else value
            else:
                yield from _scripts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _scripts(value)


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
