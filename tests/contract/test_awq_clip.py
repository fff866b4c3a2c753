"""AWQ's clipping limits by Gram matrices are those of GPTQModel's own search, token by token."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.runtime import environments
from tests.conftest import ROOT

pytestmark = pytest.mark.engine


def test_the_limits_are_those_of_gptqmodels_own_search(tmp_path: Path) -> None:
    out = tmp_path / "limits.json"
    subprocess.run(
        [str(environments.python("gptq")), "-m", "tests.contract.clip_probe", str(out)],
        cwd=ROOT,
        check=True,
    )
    for found in json.loads(out.read_text()).values():
        theirs, ours, largest = (np.array(found[name]) for name in ("theirs", "ours", "largest"))
        assert ours.shape == (64, 3, 1)
        assert 0.2 < (ours < largest).mean() < 1  # some are clipped
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
