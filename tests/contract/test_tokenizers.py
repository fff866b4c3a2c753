"""Is an artifact's tokenizer the source's? What other ids show refuses it; what is written
otherwise and gives the same ids is a note."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime import environments
from tests.conftest import ROOT
from tests.contract.conftest import TINY

pytestmark = pytest.mark.engine


def split_by(artifact: Path, *first: dict[str, Any]) -> None:
    """The tokenizer's own rule at the end of a sequence."""
    path = artifact / "tokenizer.json"
    written = json.loads(path.read_text())
    rule = {"type": "Sequence", "pretokenizers": [*first, written["pre_tokenizer"]]}
    path.write_text(json.dumps(written | {"pre_tokenizer": rule}))


def test_other_ids_refuse_and_another_wording_is_a_note(tmp_path: Path) -> None:
    source, out = ROOT / TINY, tmp_path / "said.json"
    folders = [tmp_path / name for name in ("same", "wrapped", "pattern")]
    for folder in folders:
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    split_by(folders[1])
    split_by(
        folders[2],
        {"type": "Split", "pattern": {"String": "l"}, "behavior": "Isolated", "invert": False},
    )
    probe = [str(environments.python("openvino")), "-m", "tests.contract.tokenizer_probe"]
    subprocess.run([*probe, str(source), str(out), *map(str, folders)], cwd=ROOT, check=True)
    found = json.loads(out.read_text())
    assert found["same"] == []
    assert [note.split(", ")[0] for note in found["wrapped"]] == [
        "tokenizer.json: its pre_tokenizer differs from the source's"
    ]
    assert found["pattern"][0].startswith("refused: ") and "gives" in found["pattern"][0]
