"""A ladder on the tiny recipe: climbed as far as needed, and nothing done twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.records import Evaluation, Manifest, Verdict, read
from tests.conftest import command

pytestmark = pytest.mark.engine
LADDER = "  ov-small: {{engine: openvino, ladder: [{{quantizer: rounding, weights: int2}}, int4 g128{more}]}}\n"


@pytest.fixture
def recipe(run: Path) -> Iterator[Path]:
    path = run / "recipes" / "tiny.yaml"
    stored = path.read_text()
    try:
        yield path
    finally:
        path.write_text(stored)
        for record in (paths.manifest, paths.evaluation, paths.extension, paths.verdict, paths.gate):
            record("tiny", "ov-small").unlink(missing_ok=True)  # or the whole recipe would be timed again with it
        assert command("quantgate", "index").returncode == 0


def climb(recipe: Path, text: str) -> tuple[Manifest, str]:
    recipe.write_text(text)
    assert command("quantgate", "index").returncode == 0
    done = command("dvc", "repro", "gate@tiny--ov-small")
    assert done.returncode == 0, done.stderr
    return read(paths.manifest("tiny", "ov-small"), Manifest), done.stdout


def test_a_ladder_is_climbed_until_the_gate_passes(recipe: Path) -> None:
    text = recipe.read_text()
    made, said = climb(recipe, text + LADDER.format(more=""))
    assert made.climb is not None
    assert [(step.rung, step.status) for step in made.climb.steps] == [
        ("rounding int2", "FAIL at first look"),
        ("openvino int4 g128", "PASS"),
    ]
    assert said.count("starting in environment") == 2  # each rung is made; looking and evaluating is a session
    assert (made.weights, made.requested) == ("int4", {"group_size": 128})
    assert len(list(paths.rungs("tiny", "ov-small").glob("*/*/glance.json"))) == 2
    assert len(list(paths.rungs("tiny", "ov-small").glob("*/*/evaluation.json"))) == 1
    assert read(paths.verdict("tiny", "ov-small"), Verdict).status == "PASS"
    assert set(read(paths.evaluation("tiny", "ov-small"), Evaluation).views) == {"deployed", "weights"}

    tighter = text.replace("mean_kl: {bf16: 0.001, int8: 0.001, int4: 0.02,", "mean_kl: {bf16: 0.001, int8: 0.001, int4: 0.0001,")
    assert tighter != text
    made, said = climb(recipe, tighter + LADDER.format(more=", int8"))
    assert made.climb is not None
    assert [step.status for step in made.climb.steps] == ["FAIL at first look", "FAIL at first look", "PASS"]
    assert "layers stored as 21 int8" in said
    assert said.count("layers stored as") == 1  # the first two are taken from before
    assert made.weights == "int8"
