"""Audits of what the tools' own command lines made of the tiny checkpoint, in the run of the tiny
recipe."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline import paths
from pipeline.records import Evaluation, Manifest, Verdict, read
from pipeline.runtime import environments
from tests.conftest import ROOT, command
from tests.contract.conftest import TINY
from tests.processor import needs_int4_on_vllm

pytestmark = pytest.mark.engine
SWAP_SCALES = """
import pathlib, sys
from tests.panel.artifact_damage import ir_swapped_scales
ir_swapped_scales(pathlib.Path(sys.argv[1]), pathlib.Path())
"""


def tool(environment: str, name: str, *arguments: str | Path) -> None:
    subprocess.run(
        [environments.python(environment).with_name(name), *arguments],
        check=True,
        cwd=ROOT,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uploads") / "tiny-int8-ov"
    settings = ("--task", "text-generation-with-past", "--weight-format", "int8")
    tool("openvino", "optimum-cli", "export", "openvino", "--model", TINY, *settings, folder)
    return folder


def audit(
    artifact: Path, name: str, code: int
) -> tuple[Manifest, Evaluation, Verdict, dict[str, str]]:
    """What it left, and the texts of its reports."""
    done = command(
        "quantgate",
        "audit",
        str(artifact),
        "--recipe",
        "tiny",
        "--against",
        "recipes/tiny/checkpoint",
        "--name",
        name,
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    root = paths.audit("tiny", name)
    found: tuple[Any, ...] = tuple(
        read(root / f"{kind.__name__.lower()}.json", kind)
        for kind in (Manifest, Evaluation, Verdict)
    )
    return *found, {
        file: (root / file).read_text() for file in ("report.html", "report.md", "card.md")
    }


@pytest.mark.usefixtures("run")
def test_an_export_by_optimum_cli_passes(exported: Path) -> None:
    before = Path("dvc.lock").read_text()
    manifest, evaluation, verdict, told = audit(exported, "theirs", 0)
    assert (manifest.engine, manifest.quantizer, manifest.weights) == (
        "openvino",
        "openvino",
        "int8",
    )
    assert {"optimum-intel", "nncf"} <= manifest.versions.keys()
    assert verdict.status == "PASS"
    assert set(evaluation.views) == {"deployed", "weights"}
    for text in told.values():
        assert f"Audited: made elsewhere, taken from {exported}." in text
    assert Path("dvc.lock").read_text() == before, "an audit changes nothing that the recipe made"


@pytest.mark.usefixtures("run")
def test_the_same_export_with_scales_of_another_layer_fails(exported: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(exported, damaged)
    tool("openvino", "python", "-c", SWAP_SCALES, damaged)
    _, evaluation, verdict, _ = audit(damaged, "damaged", 1)
    assert verdict.status == "FAIL"
    assert "weights that are not the source's: model.layers.0.mlp.down_proj.weight" in str(
        evaluation.failure
    )


@pytest.mark.thorough
@needs_int4_on_vllm
@pytest.mark.usefixtures("run")
def test_what_auto_rounds_command_line_makes_is_measured(tmp_path: Path) -> None:
    """In its own format, by rounding to nearest, which needs no calibration set."""
    folder = tmp_path / "tiny-autoround"
    how = (
        "--bits",
        "4",
        "--group_size",
        "128",
        "--iters",
        "0",
        "--disable_opt_rtn",
        "--format",
        "auto_round",
    )
    tool("compressed", "auto-round", "--model", TINY, *how, "--output_dir", folder)
    manifest, evaluation, verdict, _ = audit(folder, "autoround", 0)
    assert (manifest.engine, manifest.quantizer, manifest.weights) == ("vllm", "gptq", "int4")
    assert manifest.versions.keys() == {"auto-round"}
    assert evaluation.failure is None
    assert verdict.status == "PASS"
