"""The gate against artifacts that were damaged on purpose, and against harmless ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import paths, records
from pipeline.gate import long_context
from pipeline.runtime import environments, process
from tests import evaluations as make
from tests.conftest import ROOT
from tests.panel.items import BENIGN, DAMAGES
from tests.panel.long_context import LONG

pytestmark = pytest.mark.engine


def test_the_panel_catches_damage_and_passes_the_harmless(
    tiny_untouched: Path, tmp_path: Path
) -> None:
    """The fast part of `make panel`; docs/panel.md has all of it."""
    project = shutil.copytree(tiny_untouched, tmp_path / "project", symlinks=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.panel.run", "tiny", "artifacts/panel.md", "--fast"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    assert len(re.findall(r": (caught|passed): ", done.stdout)) == sum(
        item.fast for item in [*DAMAGES, *BENIGN]
    )


def test_keys_that_saturate_at_long_context_are_caught_there_alone(
    tiny_untouched: Path, tmp_path: Path
) -> None:
    """Scales that are those of short prompts (verl-project/verl#4435): windows as short show
    nothing, longer ones do."""
    texts, out = tiny_untouched / paths.texts("tiny"), tmp_path / "found.json"
    source, artifact = (
        tiny_untouched / "recipes" / "tiny" / "checkpoint",
        tiny_untouched / paths.model("tiny", "ov-int8"),
    )
    command = [
        environments.python("openvino"),
        "-m",
        "tests.panel.long_context",
        source,
        artifact,
        texts,
        tmp_path,
        out,
    ]
    subprocess.run(command, env={**os.environ, **process.ENVIRONMENT}, cwd=ROOT, check=True)
    (text,) = records.read(texts, records.Texts).texts
    windows = [
        records.Window(index=index, nll_nats=1, tokens=1, bytes=1)
        for index in range(len(text.windows))
    ]
    whole = records.Perplexity(text=text.name, text_sha256=text.sha256, windows=windows)
    theirs = make.evaluation(
        {"reference": records.View(settings={}, perplexity=[whole], divergence=[])}, []
    )
    found = {}
    for name, measured in json.loads(out.read_text()).items():
        view = records.View(
            settings={},
            perplexity=[],
            divergence=[],
            long_context=[records.Divergence.model_validate(measured)],
        )
        checks = long_context.checks(
            theirs,
            make.evaluation({"deployed": view}, []),
            None,
            make.limits(mean_kl=0.001, long=LONG),
        )
        found[name] = [check.status for check in checks]
    assert found["as it is"] == found["keys of 256 tokens"] == ["PASS"] * 3
    assert found["keys of 48 tokens"][:2] == ["PASS", "FAIL"]
