"""Rounding to 8 bits a slice of rows at a time gives what NNCF gives for the whole matrix."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from pipeline.runtime import environments
from tests.conftest import ROOT

pytestmark = pytest.mark.engine


def test_slices_are_rounded_as_the_whole(tmp_path: Path) -> None:
    out = tmp_path / "rounded.json"
    subprocess.run(
        [str(environments.python("openvino")), "-m", "tests.contract.slices_probe", str(out)],
        cwd=ROOT,
        check=True,
    )
    found = json.loads(out.read_text())
    assert found["calls"] == 4 * 3
    assert found["sliced"] == found["whole"]
    assert all(len(one["tensor"][1]) == 250 for one in found["sliced"])
