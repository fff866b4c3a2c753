"""README and docs are true: their commands run, their files exist, and no key, quantizer or module
is left out."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import pipeline
from pipeline import recipe
from tests.conftest import HTTP_BENCHMARK, ROOT, command, parsed
from tests.serving import until

HEALTH = "http://127.0.0.1:8000/health"

README = (ROOT / "README.md").read_text()
DOCS = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("recipe", "verdict", "speed")}
COMMANDS = [
    line.split(" #")[0].strip()
    for page in (README, *DOCS.values())
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def test_there_are_commands() -> None:
    assert {
        "make repro",
        "make test",
        "quantgate doctor",
        "dvc metrics show artifacts/metrics/tiny",
    } <= set(COMMANDS)


@pytest.mark.engine
@pytest.mark.parametrize("line", [line for line in COMMANDS if not line.startswith("make")])
def test_every_command_of_the_readme_runs(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, line: str
) -> None:
    """In order, in the project that `make repro` was run in (fixture tiny_run); `make test` is what
    runs this."""
    monkeypatch.chdir(tiny_run)
    if line.startswith("quantgate serve"):
        assert served_and_stopped(line) == 0
        return
    done = (
        request.getfixturevalue("http_benchmark")
        if line == HTTP_BENCHMARK
        else command("sh", "-c", line)
    )
    # The project of the fixture holds a variant that must not pass.
    assert done.returncode == (1 if "require" in line else 0), done.stderr
    if line.startswith("quantgate signoff key"):
        paste(done.stdout)


def served_and_stopped(line: str) -> int:
    """The exit code of a server that was stopped once it was up, on the port that is printed."""
    with subprocess.Popen(["sh", "-c", f"exec {line}"], process_group=0) as server:
        try:
            until(lambda: server.poll() is not None or _is_up(), within_s=300)
            server.terminate()
            return server.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)


def _is_up() -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(HEALTH, timeout=5):
        return True
    return False


def paste(said: str) -> None:
    """What the README has its reader do by hand: the line that `quantgate signoff key` printed goes
    where it says."""
    section, line = re.search(r"below `(\w+:)`", said), said.splitlines()[-1]
    policy = Path("signoff/policy.yaml")
    assert section is not None
    assert f"\n{section[1]}\n" in policy.read_text()
    policy.write_text(policy.read_text().replace(f"\n{section[1]}\n", f"\n{section[1]}\n{line}\n"))


def chapter(title: str) -> list[list[str]]:
    """The commands of a chapter of the README, a list for each block."""
    text = README.partition(f"## {title}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [[line.split("  #")[0].strip() for line in block.splitlines()] for block in blocks]


def test_three_people_sign_off_as_the_readme_says(
    measured_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks, who approves and CI, each in a folder of their own, with the README's commands as
    they are printed."""
    keys, ask, decide, publish = chapter("Sign off and publish")
    asking, approver, ci = (tmp_path / who / "project" for who in ("asking", "approver", "ci"))
    shutil.copytree(measured_once, asking)
    monkeypatch.chdir(asking)
    shutil.copyfile(ROOT / "signoff" / "policy.yaml", "signoff/policy.yaml")
    as_printed(
        asking,
        "git commit -aqm 'A policy that names nobody'",
        "git remote add origin ../../origin.git",
    )
    as_printed(
        asking,
        "git init -q --bare ../../origin.git",
        "git push -q origin HEAD:main",
        "git checkout -qB main origin/main",
    )
    lines = []
    for folder, command_line in zip((approver, ci), keys, strict=True):
        as_printed(tmp_path, f"git clone -q -b main origin.git {folder}")
        as_printed(
            folder,
            f"git config user.email {folder.parent.name}@example.org",
            "git config user.name x",
        )
        lines.append(as_printed(folder, command_line))
        shutil.copytree(
            asking / "artifacts", folder / "artifacts", dirs_exist_ok=True
        )  # what `dvc pull` brings
    monkeypatch.chdir(asking)
    for said in lines:
        paste(said)
    as_printed(asking, *(line.replace("ov-int4", "ov-int8") for line in ask), "git push -q")
    as_printed(
        approver,
        "git pull -q",
        *(line.replace("ov-int4", "ov-int8") for line in decide),
        "git push -q",
    )
    said = as_printed(
        ci,
        "git pull -q",
        *(line.replace("ov-int4", "ov-int8") for line in publish if "serve" not in line),
    )
    assert "PASS; approved by ada@example.org (reviewer)" in said


def as_printed(folder: Path, *lines: str) -> str:
    """Runs commands in a folder; what the last one printed."""
    said = ""
    for line in lines:
        with contextlib.chdir(folder):
            done = command("sh", "-c", line)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        said = done.stdout
    return said


def test_the_ci_examples_call_commands_that_exist() -> None:
    found = []
    for path in (ROOT / "docs" / "ci").iterdir():
        found += re.findall(
            r"(?:quantgate|dvc) .*", "\n".join(_scripts(YAML(typ="safe").load(path.read_text())))
        )
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
            parsed(*call[1:])


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


def test_modules_that_other_peoples_ci_calls_exist() -> None:
    pages = [path.read_text() for path in (ROOT / "docs" / "ci").iterdir()] + list(DOCS.values())
    called = {
        module
        for page in pages
        for module in re.findall(r"python -m ((?:pipeline|tests|benchmarks)[\w.]*)", page)
    }
    assert "pipeline.runtime.environments" in called
    for module in called:
        assert (path := ROOT / module.replace(".", "/")).is_dir() or path.with_suffix(
            ".py"
        ).is_file(), module


def test_the_map_names_every_module() -> None:
    """In pipeline/__init__.py, or in the room's own."""
    for path in (ROOT / "pipeline").rglob("*.py"):
        room = (
            (path.parent / "__init__.py").read_text()
            if (path.parent / "__init__.py").is_file()
            else path.parent.name
        )
        named = set(re.findall(r"\w+", f"{pipeline.__doc__} {room}"))
        assert path.stem in named or path.parent.name in ("untracked", "report"), path


def test_every_key_of_a_recipe_is_explained() -> None:
    schema, told = json.loads(recipe.schema()), README + "".join(DOCS.values())
    definitions = {"recipe": schema, **schema["$defs"]}
    keys = {
        key
        for name, part in definitions.items()
        if name != "Variant"
        for key in part.get("properties", {})
    }
    assert keys
    for key in keys:
        assert re.search(rf"\b{key}\b", told), key


def test_every_quantizer_is_in_the_table() -> None:
    from pipeline.quantizers.table import TOOLS

    for name in TOOLS:
        assert f"`{name}`" in DOCS["recipe"]
