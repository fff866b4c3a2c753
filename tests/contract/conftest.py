"""What the contract suites share: the probe in a tool environment, transformers' own scores,
bundles for registries."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.release.registries import Entry
from pipeline.runtime import environments
from tests.bundles import make_bundle
from tests.conftest import ROOT

TINY = ROOT / "recipes" / "tiny" / "checkpoint"


def run_probe(environment: str, *arguments: str, out: Path) -> dict[str, Any]:
    command = [
        str(environments.python(environment)),
        "-m",
        "tests.contract.probe",
        *arguments,
        str(out),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.fixture(scope="session")
def torch_scores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_probe(
        "openvino", "torch", str(TINY), out=tmp_path_factory.mktemp("torch") / "scores.json"
    )


@pytest.fixture
def entry(request: pytest.FixtureRequest) -> Entry:
    """Another one in every test: the servers keep what was published."""
    return Entry(
        f"recipe-{hashlib.sha256(request.node.name.encode()).hexdigest()[:10]}",
        "ov-int4_g64",
        "1.0.0",
    )


@pytest.fixture
def bundle(tmp_path: Path, entry: Entry) -> Path:
    return make_bundle(tmp_path / "bundle", int(entry.recipe.removeprefix("recipe-"), 16))
