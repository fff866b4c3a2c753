"""What the export to OpenVINO leaves behind: optimum-intel keeps a whole copy of the model in a
temporary folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.recipe import Variant
from pipeline.runtime import process
from tests.conftest import ROOT


@pytest.mark.engine
def test_no_copy_of_the_model_is_left_outside_the_stages_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    temporary, stage = tmp_path / "temporary", tmp_path / "stage"
    for folder in (temporary, stage / "out"):
        folder.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(temporary))
    samples = stage / "samples.json"
    samples.write_text(
        '{"prompts": "p", "seed": 0, "prompts_used": 1, "sha256": "", "overlap": 0,'
        ' "overlap_limit": 0, "ids": []}'
    )
    variant = Variant(engine="openvino").model_dump()
    job = {
        "variant": variant,
        "checkpoint": "recipes/tiny/checkpoint",
        "samples": str(samples),
        "out": str(stage / "out"),
        "exported": None,
    }
    process.run("openvino", "quantize", job, stage)
    assert (stage / "out" / "openvino_model.bin").is_file()
    assert not list(temporary.rglob("*.bin"))
