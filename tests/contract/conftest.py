"""What the contract suites of engines and quantizers share: the probe in a tool environment, and transformers' own scores."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline import environments
from tests.conftest import ROOT

TINY = ROOT / "recipes" / "tiny" / "checkpoint"


def run_probe(environment: str, *arguments: str, out: Path) -> dict[str, Any]:
    command = [str(environments.python(environment)), "-m", "tests.contract.probe", *arguments, str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.fixture(scope="session")
def torch_scores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_probe("openvino", "torch", str(TINY), out=tmp_path_factory.mktemp("torch") / "scores.json")
