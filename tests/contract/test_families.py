"""Model families beyond Llama: a tiny random model of each through every line of the quantizers'
table on a CPU, a trained one through a line of each quantizer and engine.

What the table says is served must be made and served; what it says is not must fail as soon as it
is tried all the same. `make test` takes FAST, `make test-all` the whole matrix. Each prints what
came of it."""

from __future__ import annotations

import functools
import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from pipeline import engines, quantizers
from pipeline.errors import QuantgateError, RecipeError
from pipeline.quantizers import families, refusal
from pipeline.quantizers.table import OPENVINO, SERVED
from pipeline.recipe import Variant
from pipeline.records import Samples, read
from pipeline.runtime import environments, process
from pipeline.source.checkpoint import linear_shapes
from tests.conftest import ROOT
from tests.contract.probe import sequences
from tests.contract.test_quantizers import (
    ENGINE_ACTIVATIONS_APART,
    ENGINE_APART,
    LIKELY,
    Asked,
    name,
)
from tests.families import FAMILIES, TRAINED

pytestmark = pytest.mark.engine
FAST = {
    "qwen3-openvino-int8-openvino-symmetric=True",
    "qwen3_moe-openvino-int8-openvino-symmetric=True",
}
ROWS, TOKENS, VOCABULARY = 16, 128, 1024
BASE = Variant(engine="openvino")


def marks(family: str, asked: Asked) -> Any:
    return () if f"{family}-{name(asked)}" in FAST else pytest.mark.thorough


LINES = [
    asked
    for line in SERVED
    if "cpu" in line.devices and line.quantizer != "rounding"
    for asked in line.asked()[:1]
]
ONE_EACH: dict[
    tuple[str, str], Asked
] = {}  # of each quantizer and engine, with 4 bits if it has them: a training takes minutes
for line in sorted(LINES, key=lambda asked: asked["weights"] != "int4"):
    ONE_EACH.setdefault((line["quantizer"], line["engine"]), line)
TRIED = {
    **dict.fromkeys(FAMILIES, LINES),
    **{f"{TRAINED}{family}": list(ONE_EACH.values()) for family in FAMILIES},
}
MATRIX = [
    pytest.param(family, asked, id=f"{family}-{name(asked)}", marks=marks(family, asked))
    for family, lines in TRIED.items()
    for asked in lines
]


class Family(NamedTuple):
    """A checkpoint, the rows to calibrate on and those to score, which a model of random weights
    takes at random too."""

    source: Path
    samples: Path
    rows: list[list[int]]


Get = Callable[[str], Family]


@pytest.fixture(scope="session")
def families_made(tmp_path_factory: pytest.TempPathFactory) -> Get:
    """Makes a family's model for the first test that wants it."""
    folder = tmp_path_factory.mktemp("families")

    @functools.cache
    def get(family: str) -> Family:
        subprocess.run(
            [str(environments.python("openvino")), "-m", "tests.families", str(folder), family],
            cwd=ROOT,
            check=True,
        )
        rng = random.Random(0)
        rows = [[rng.randrange(2, VOCABULARY) for _ in range(TOKENS)] for _ in range(ROWS)]
        scored = sequences()
        if family.startswith(TRAINED):
            text = json.loads((folder / f"{family}.json").read_text())
            rows = [row[:TOKENS] for row in text[:ROWS]]
            scored = [row[: len(own)] for row, own in zip(text[ROWS:], scored, strict=False)]
        samples = folder / f"{family}.samples.json"
        Samples(
            prompts="made", seed=0, prompts_used=1, sha256="", overlap=0, overlap_limit=0, ids=rows
        ).write(samples)
        return Family(folder / family, samples, scored)

    return get


Make = Callable[[str, Variant, Path], tuple[process.Finished, Path]]


@pytest.fixture(scope="session")
def make(families_made: Get, tmp_path_factory: pytest.TempPathFactory) -> Make:
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
        made = families_made(family)
        job = quantizers.job(variant, made.source, made.samples, base, out)
        return (
            process.run(
                quantizers.tool(variant).environment, "quantize", job, folder, offline=True
            ),
            out,
        )

    return run


def check(family: str, asked: Asked, make: Make, families_made: Get, folder: Path) -> str:
    """Makes, serves and compares; what was seen, in a line. Raises what the first thing raises that
    does not work."""
    variant, (source, _, rows) = Variant.model_validate(asked), families_made(family)
    made, out = make(family, variant, folder)
    assert made.value["stored_types"] == {variant.weights: len(linear_shapes(source))}
    python = environments.python(engines.ENGINES[variant.engine].environment)
    (folder / "rows.json").write_text(json.dumps(rows))
    command = [
        str(python),
        "-m",
        "tests.contract.family_probe",
        variant.engine,
        str(out),
        str(source),
        variant.weights,
    ]
    subprocess.run(
        [*command, str(folder / "rows.json"), str(folder / "found.json")], cwd=ROOT, check=True
    )
    found = json.loads((folder / "found.json").read_text())
    assert found["errors"].keys() >= {f"{layer}.weight" for layer in linear_shapes(source)}
    served, weights = (
        np.concatenate([np.array(row) for row in found[key]]) for key in ("scores", "weights")
    )
    apart = np.abs(served - weights)[weights > LIKELY].mean()
    assert apart < (ENGINE_ACTIVATIONS_APART if variant.activations else ENGINE_APART)
    return (
        f"{made.value['stored_types']} in {made.wall_s:.0f} s, engine {apart:.3f} nats from the"
        " weights"
    )


@pytest.mark.parametrize(("family", "asked"), MATRIX)
def test_the_table_is_what_happens(
    family: str, asked: Asked, make: Make, families_made: Get, tmp_path: Path
) -> None:
    try:
        refusal.refuse_model(
            Path("recipe.yaml"),
            "v",
            Variant.model_validate(asked),
            families_made(family).source,
            "cpu",
        )
    except RecipeError as said:
        if "with AMX only" in str(said) and "amx_tile" in Path("/proc/cpuinfo").read_text():
            pytest.skip("this CPU has AMX, the table's lines come from one without")
        with pytest.raises(
            (QuantgateError, AssertionError, subprocess.CalledProcessError)
        ) as failed:
            check(family, asked, make, families_made, tmp_path)
        print(f"{family}-{name(asked)}: refused ({said}); tried: {str(failed.value)[-200:]}")
    else:
        print(f"{family}-{name(asked)}: {check(family, asked, make, families_made, tmp_path)}")


def test_calibration_tokens_of_each_expert_against_the_routers_logits(
    families_made: Get, tmp_path: Path
) -> None:
    ids, out = tmp_path / "ids.json", tmp_path / "found.json"
    made = families_made("qwen3_moe")
    ids.write_text(json.dumps(read(made.samples, Samples).ids))
    probe = [str(environments.python("openvino")), "-m", "tests.contract.coverage_probe"]
    subprocess.run([*probe, str(made.source), str(ids), str(out)], cwd=ROOT, check=True)
    found = json.loads(out.read_text())
    assert found["ours"].keys() == found["theirs"].keys()
    moved = sum(
        abs(a - b)
        for block, counts in found["ours"].items()
        for a, b in zip(counts, found["theirs"][block], strict=True)
    )
    assert moved < 0.005 * 4 * ROWS * TOKENS  # logits in bfloat16 tie now and then
    assert [sum(counts) for counts in found["ours"].values()] == [2 * ROWS * TOKENS] * 2


def test_every_family_of_the_table_is_tried() -> None:
    assert families.FAMILIES.keys() == {"llama", *FAMILIES}
