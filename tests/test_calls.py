"""No verb calls anybody but whom it is for, or leaves anything in the home folder. The table of
verbs is the command's own, so that a new one cannot be missed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline import cli
from pipeline.runtime import environments
from tests.conftest import ROOT, watched

CALL = "from pipeline.cli import main; exit(main(['list', 'oci+http://registry.invalid/models']))"
KEY = "--key ../ada@example.org.pem"
BUNDLE = "../registry/tiny/ov-int8/1"
DEPLOY = """\
policy: project/signoff/policy.yaml
models: {tiny: {tiers: {edge: {bundle: registry/tiny/ov-bf16/2}}}}
"""
# In an order in which each has what it needs.
WORKS = {
    "doctor": "doctor",
    "quantizers": "quantizers",
    "schema": "schema",
    "plan": "plan tiny",
    "signoff key": "signoff key ../new.pem --name n@example.org --role reviewer",
    "signoff request": "signoff request tiny ov-int8",
    "signoff approve": f"signoff approve tiny ov-int8 {KEY}",
    "signoff show": "signoff show tiny ov-int8",
    "signoff verify": "signoff verify tiny ov-int8",
    "publish": "publish tiny ov-bf16 --key ../ci.pem --to ../registry --version 2",
    "deploy-files": "deploy-files ../deploy.yaml --to systemd --out ../systemd",
    "list": "list ../registry",
    "fetch": f"fetch {BUNDLE} --to ../fetched",
    "verify": f"verify {BUNDLE} --recheck",
    "signoff reject": f"signoff reject tiny ov-int8 {KEY} --reason bad",
    "require": "require tiny",
    "compare": "compare tiny",
    "gate": "gate tiny ov-int8",
    "report": "report tiny",
    "artifacts": "artifacts",
    "calibration add": "calibration add ../notes.txt --name notes",
    "init": "init recipes/tiny/checkpoint --name mine",
    "index": "index",
    "clean": "clean --yes",
}
# What they need is not there: an environment of an engine. What engines and tools do is watched in
# the run of the tiny recipe (test_untracked).
REFUSED = {
    "setup": "setup no-such",
    "run": "run tiny --until pin",
    "audit": "audit recipes/tiny/checkpoint --recipe tiny",
    "serve": "serve ../registry/tiny/ov-bf16/2",
    "gateway": "gateway ../deploy.yaml",
    "usage": "usage ../deploy.yaml",
    "pin": "pin tiny",
    "calibrate": "calibrate tiny",
    "reference": "reference tiny",
    "quantize": "quantize tiny ov-int8",
    "climb": "climb tiny ov-int8",
    "evaluate": "evaluate tiny ov-int8",
    "trace": "trace tiny",
    "spread": "spread tiny --ray local",
    "benchmark": "benchmark tiny",
}


NO_NETWORK = ["unshare", "--net"]  # a namespace with nothing in it, where this user may make one


def works(before: list[str]) -> bool:
    done = subprocess.run([*before, "true"], capture_output=True, check=False)
    return done.returncode == 0


def verbs(found: click.Group, before: str = "") -> Iterator[str]:
    for name, command in found.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, f"{name} ")
        else:
            yield f"{before}{name}"


def test_every_verb_is_here() -> None:
    assert {*WORKS, *REFUSED} == set(verbs(cli.quantgate))


@pytest.fixture(scope="module")
def told(published_once: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("calls")
    shutil.copytree(published_once, folder, symlinks=True, dirs_exist_ok=True)
    (folder / "notes.txt").write_text("a text\n" * 50)
    (folder / "deploy.yaml").write_text(DEPLOY)
    (folder / "asked.json").write_text(json.dumps(WORKS | REFUSED))
    (folder / "environments").mkdir()
    (folder / "environments" / environments.location("control").name).symlink_to(sys.prefix)
    surroundings = {**watched(folder), "QUANTGATE_ENVIRONMENTS": str(folder / "environments")}
    surroundings["PYTHONPATH"] += f"{os.pathsep}{ROOT}"
    runner = ROOT / "tests" / "watch" / "verbs.py"
    subprocess.run(
        [
            *(NO_NETWORK if works(NO_NETWORK) else []),
            sys.executable,
            str(runner),
            str(folder / "asked.json"),
            str(folder / "told.json"),
        ],
        cwd=folder / "project",
        env={**os.environ, **surroundings},
        check=True,
    )
    found: dict[str, Any] = json.loads((folder / "told.json").read_text())
    return found


@pytest.mark.parametrize("verb", [*WORKS, *REFUSED])
def test_it_calls_nobody_and_leaves_nothing_at_home(told: dict[str, Any], verb: str) -> None:
    assert told[verb]["code"] == (0 if verb in WORKS else 2), told[verb]["said"]
    assert told[verb]["called"] == []
    assert told[verb]["home"] == []


def test_whom_it_is_for_is_seen(tmp_path: Path) -> None:
    """Or an empty list would tell nothing: a registry's URL is called."""
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        cwd=ROOT,
        env={**os.environ, **watched(tmp_path)},
        check=False,
    )
    assert done.returncode == 2
    assert "registry.invalid" in (tmp_path / "calls.txt").read_text()
