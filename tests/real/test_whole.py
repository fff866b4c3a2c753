"""The real models whole, under the recipes beside this file: every variant is judged as
docs/real-models.md says, and every item of the damage panel. An hour a model and more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.records import Verdict, read
from tests.conftest import ROOT
from tests.panel.__main__ import BASES
from tests.real.project import judge, real_project

# Activations in 8 bits, one scale a token, cost more than the limit for 8 bits has room for. On
# SmolLM2 llm-compressor's GPTQ runs away with two rows: 1.65 times the perplexity.
FAILING = {"smollm2-135m": {"ct-int8", "ct-int4"}, "qwen2.5-coder-0.5b": {"ct-int8"}}
VARIANTS = (*BASES, "ar-int4", "ct-int4", "ct-int8")

pytestmark = [pytest.mark.real, pytest.mark.engine, pytest.mark.thorough]


@pytest.fixture(scope="module", params=FAILING)
def judged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name: str = request.param
    folder = real_project(name, tmp_path_factory.mktemp("whole") / name)
    judge(folder, name, VARIANTS)
    return folder


def test_every_variant_is_judged_as_the_docs_say(judged: Path) -> None:
    found = {
        variant: read(judged / paths.verdict(judged.name, variant), Verdict).status
        for variant in VARIANTS
    }
    failed = {variant for variant, status in found.items() if status == "FAIL"}
    assert failed == FAILING[judged.name]
    assert {*found.values()} == {"PASS", "FAIL"}


def test_every_damage_is_caught_and_every_honest_twin_passes(judged: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.panel.run", judged.name, "artifacts/panel.md"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=judged,
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
    assert done.returncode == 0, [*wrong, done.stderr[-3000:]]
