"""The gate against artifacts that were damaged on purpose, and against harmless ones."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.panel.items import BENIGN, DAMAGES

pytestmark = pytest.mark.engine


def test_the_panel_catches_damage_and_passes_the_harmless(tiny_untouched: Path, tmp_path: Path) -> None:
    """The fast part of `make panel`; docs/panel.md has all of it, on two models."""
    project = shutil.copytree(tiny_untouched, tmp_path / "project", symlinks=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.panel.run", "tiny", "artifacts/panel.md", "--fast"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=project, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    assert len(re.findall(r": (caught|passed): ", done.stdout)) == sum(item.fast for item in [*DAMAGES, *BENIGN])
