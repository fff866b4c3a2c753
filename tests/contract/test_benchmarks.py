"""The programs in benchmarks/ take too long for the tests: here each is only started, in the
environment it runs in."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pipeline.runtime import environments

pytestmark = pytest.mark.engine
WHERE = {
    "control": (
        "by_hand",
        "chatbot",
        "driver",
        "engines",
        "evaluating",
        "gateway",
        "gateway_engines",
        "memory",
        "publishing",
        "quality",
        "quantizer_memory",
        "random_project",
        "scale",
        "scale_model",
        "schedule",
        "scoring",
        "serving",
        "spread",
        "spread_waiting",
        "three_ways",
        "two_servers",
    ),
    "openvino": (
        "bandwidth",
        "by_hand_worker",
        "driver",
        "evaluating_worker",
        "quality_worker",
        "random_model",
        "scoring_worker",
    ),
    "gptq": ("by_hand_worker",),
    "vllm": ("by_hand_worker", "driver", "quality_worker", "scoring_worker"),
}


@pytest.mark.parametrize(
    ("environment", "name"), [(where, name) for where, names in WHERE.items() for name in names]
)
def test_it_starts(environment: str, name: str, root: Path) -> None:
    if not environments.is_complete(environment):
        pytest.skip(f"environment {environment!r} is not installed")
    command = [str(environments.python(environment)), "-c", f"import benchmarks.{name}"]
    done = subprocess.run(
        command, cwd=root, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_program_is_listed(root: Path) -> None:
    found = {path.stem for path in (root / "benchmarks").glob("*.py")} - {"__init__"}
    assert found == {name for names in WHERE.values() for name in names}
