"""Real weights through the real tools: honest artifacts of every kind pass the load check, damaged
ones do not.

SmolLM2 cut to its first blocks, which is enough of its outlier channels and uneven groups, and
takes minutes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import paths
from pipeline.records import Evaluation, read
from pipeline.source import tensors
from tests.build import write_safetensors
from tests.conftest import REAL, ROOT
from tests.real import prepare
from tests.real.project import judge, real_project

NAME, BLOCKS = "smollm2-135m", 4
SMALLER = {
    "window: 512, max_windows: 64": "window: 128, max_windows: 16",
    "positions: 2048, windows: 64": "positions: 512, windows: 16",
    "rare: 0.05": "rare: 0.2",
    "  long_context: {windows: 16}\n": "",
    "lambada: 400, arc_easy_local: 400, piqa_local: 400": "piqa_local: 20",
    "samples: 128, tokens: 256": "samples: 32, tokens: 128",
}
VARIANTS = ("ov-bf16", "ov-int8", "ov-int4", "vllm-bf16", "gptq-int4", "awq-int4")
DAMAGES = (
    "ir-zero-point-ov-int8",
    "ir-swapped-scales-ov-int8",
    "gptq-zero-point-gptq-int4",
    "awq-nibble-order-awq-int4",
    "one-wrong-zero-point",
)
HONEST = ("int4-awq",)

pytestmark = [pytest.mark.real, pytest.mark.engine]


def cut(source: Path, blocks: int, out: Path) -> None:
    """The checkpoint with its first decoder blocks alone."""
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((source / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"num_hidden_layers": blocks}))
    header = tensors.read_header(source / "model.safetensors")
    kept = [
        tensor
        for name, tensor in header.items()
        if int((re.findall(r"layers\.(\d+)\.", name) or [0])[0]) < blocks
    ]
    stored = {
        tensor.name: ("BF16", np.memmap(tensor.file, "<u2", "r", tensor.begin, tensor.shape))
        for tensor in kept
    }
    write_safetensors(out / "model.safetensors", stored)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the six usual variants of the cut model have been made, measured and
    judged."""
    folder = real_project(NAME, tmp_path_factory.mktemp("smollm2") / "project")
    source = prepare.checkpoint(NAME, REAL)
    cut(source, BLOCKS, folder.parent / "cut")
    recipe = folder / "recipes" / f"{NAME}.yaml"
    text = recipe.read_text().replace(source.as_posix(), (folder.parent / "cut").as_posix())
    for usual, smaller in SMALLER.items():
        assert usual in text
        text = text.replace(usual, smaller)
    recipe.write_text(text)
    judge(folder, NAME, VARIANTS)
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_honest_weights_are_found_to_be_the_sources(judged: Path, variant: str) -> None:
    found = read(judged / paths.evaluation(NAME, variant), Evaluation)
    assert found.failure is None
    assert found.load_check is not None
    assert len(found.load_check.relative_error) >= 7 * BLOCKS
    assert max(found.load_check.relative_error.values()) < 0.4


def test_damaged_weights_are_refused_and_others_are_not(judged: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.panel.run",
            NAME,
            "artifacts/panel.md",
            "--only",
            *DAMAGES,
            *HONEST,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=judged,
        capture_output=True,
        text=True,
        check=False,
    )
    said = re.findall(r"^(?:WRONG )?(\S+): (\w+): (.*)", done.stdout, re.MULTILINE)
    assert len(said) == len(DAMAGES) + len(HONEST), f"{done.stdout}\n{done.stderr[-3000:]}"
    refused = {name for name, _, why in said if "weights that are not the source's" in why}
    assert refused == set(DAMAGES), done.stdout
