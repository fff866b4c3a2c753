"""Model families beyond Llama: a tiny random model of each through every line of the quantizers' table, on a CPU.

What the table says is served must be made and served; what it says is not must fail as soon as it is tried all the same.
`make test` takes FAST, `make test-all` the whole matrix. Each prints what came of it.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import engines, environments, process, quantizers
from pipeline.checkpoint import linear_shapes
from pipeline.errors import QuantgateError, RecipeError
from pipeline.quantizers import families, refusal
from pipeline.quantizers.table import OPENVINO, SERVED
from pipeline.recipe import Variant
from pipeline.records import Samples
from tests.conftest import ROOT
from tests.contract.test_quantizers import ENGINE_ACTIVATIONS_APART, ENGINE_APART, LIKELY, Asked, name
from tests.families import FAMILIES

pytestmark = pytest.mark.engine
FAST = {"qwen3-openvino-int8-openvino-symmetric=True", "qwen3_moe-openvino-int8-openvino-symmetric=True"}
ROWS, TOKENS, VOCABULARY = 16, 128, 1024
BASE = Variant(engine="openvino")


def marks(family: str, asked: Asked) -> Any:
    return () if f"{family}-{name(asked)}" in FAST else pytest.mark.thorough


MATRIX = [
    pytest.param(family, asked, id=f"{family}-{name(asked)}", marks=marks(family, asked))
    for family in FAMILIES
    for line in SERVED
    for asked in line.asked()[:1]
    if "cpu" in line.devices and line.quantizer != "rounding"
]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    command = [str(environments.python("openvino")), "-m", "tests.families", str(folder), *FAMILIES]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(0)
    rows = [[rng.randrange(2, VOCABULARY) for _ in range(TOKENS)] for _ in range(ROWS)]
    path = tmp_path_factory.mktemp("calibration") / "samples.json"
    Samples(prompts="random", seed=0, prompts_used=1, sha256="", overlap=0, overlap_limit=0, ids=rows).write(path)
    return path


Make = Callable[[str, Variant, Path], tuple[process.Finished, Path]]


@pytest.fixture(scope="session")
def make(checkpoints: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Quantizes one family into a folder; NNCF starts from one export a family."""
    exported: dict[str, Path] = {}

    def run(family: str, variant: Variant, folder: Path) -> tuple[process.Finished, Path]:
        base = None
        if variant.quantizer and quantizers.tool(variant) is OPENVINO:
            if family not in exported:
                _, exported[family] = run(family, BASE, tmp_path_factory.mktemp(family))
            base = exported[family]
        out = folder / "out"
        out.mkdir()
        job = quantizers.job(variant, checkpoints / family, samples, base, out)
        return process.run(quantizers.tool(variant).environment, "quantize", job, folder, offline=True), out

    return run


def check(family: str, asked: Asked, make: Make, checkpoints: Path, folder: Path) -> str:
    """Makes, serves and compares; what was seen, in a line. Raises what the first thing raises that does not work."""
    variant, source = Variant.model_validate(asked), checkpoints / family
    made, out = make(family, variant, folder)
    assert made.value["stored_types"] == {variant.weights: len(linear_shapes(source))}
    python = environments.python(engines.ENGINES[variant.engine].environment)
    command = [str(python), "-m", "tests.contract.family_probe", variant.engine, str(out), str(source), variant.weights]
    subprocess.run([*command, str(folder / "found.json")], cwd=ROOT, check=True)
    found = json.loads((folder / "found.json").read_text())
    assert found["errors"].keys() >= {f"{layer}.weight" for layer in linear_shapes(source)}
    served, weights = (np.concatenate([np.array(row) for row in found[key]]) for key in ("scores", "weights"))
    apart = np.abs(served - weights)[weights > LIKELY].mean()
    assert apart < (ENGINE_ACTIVATIONS_APART if variant.activations else ENGINE_APART)
    return f"{made.value['stored_types']} in {made.wall_s:.0f} s, engine {apart:.3f} nats from the weights"


@pytest.mark.parametrize(("family", "asked"), MATRIX)
def test_the_table_is_what_happens(family: str, asked: Asked, make: Make, checkpoints: Path, tmp_path: Path) -> None:
    try:
        refusal.refuse_model(Path("recipe.yaml"), "v", Variant.model_validate(asked), checkpoints / family, "cpu")
    except RecipeError as said:
        if "with AMX only" in str(said) and "amx_tile" in Path("/proc/cpuinfo").read_text():
            pytest.skip("this CPU has AMX, the table's lines come from one without")
        with pytest.raises((QuantgateError, AssertionError, subprocess.CalledProcessError)) as failed:
            check(family, asked, make, checkpoints, tmp_path)
        print(f"{family}-{name(asked)}: refused ({said}); tried: {str(failed.value)[-200:]}")
    else:
        print(f"{family}-{name(asked)}: {check(family, asked, make, checkpoints, tmp_path)}")


def test_calibration_tokens_of_each_expert_against_the_routers_logits(checkpoints: Path, samples: Path, tmp_path: Path) -> None:
    ids, out = tmp_path / "ids.json", tmp_path / "found.json"
    rows = json.loads(samples.read_text())["ids"]
    ids.write_text(json.dumps(rows))
    probe = [str(environments.python("openvino")), "-m", "tests.contract.coverage_probe"]
    subprocess.run([*probe, str(checkpoints / "qwen3_moe"), str(ids), str(out)], cwd=ROOT, check=True)
    found = json.loads(out.read_text())
    assert found["ours"].keys() == found["theirs"].keys()
    moved = sum(abs(a - b) for block, counts in found["ours"].items() for a, b in zip(counts, found["theirs"][block], strict=True))
    assert moved < 0.005 * 4 * ROWS * TOKENS  # logits in bfloat16 tie now and then
    assert [sum(counts) for counts in found["ours"].values()] == [2 * ROWS * TOKENS] * 2


def test_every_family_of_the_table_is_tried() -> None:
    assert families.FAMILIES.keys() == {"llama", *FAMILIES}
