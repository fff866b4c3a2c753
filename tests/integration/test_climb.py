"""A ladder on the tiny recipe: climbed as far as needed, and nothing done twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.records import Evaluation, Manifest, Verdict, read
from tests.conftest import command
from tests.processor import needs_int4_on_vllm

pytestmark = pytest.mark.engine
LADDER = (
    "  small: {{engine: openvino, ladder: [{{quantizer: rounding, weights: int2}}, int4"
    " g128{more}]}}\n"
)


@pytest.fixture
def recipe(run: Path) -> Iterator[Path]:
    path = run / "recipes" / "tiny.yaml"
    stored = path.read_text()
    try:
        yield path
    finally:
        path.write_text(stored)
        for record in (
            paths.manifest,
            paths.evaluation,
            paths.extension,
            paths.verdict,
            paths.gate,
        ):
            record("tiny", "small").unlink(
                missing_ok=True
            )  # or the whole recipe would be timed again with it
        assert command("quantgate", "index").returncode == 0


def climb(recipe: Path, text: str) -> tuple[Manifest, str]:
    recipe.write_text(text)
    assert command("quantgate", "index").returncode == 0
    done = command("dvc", "repro", "gate@tiny--small")
    assert done.returncode == 0, done.stderr
    return read(paths.manifest("tiny", "small"), Manifest), done.stdout


def test_a_ladder_is_climbed_until_the_gate_passes(recipe: Path) -> None:
    text = recipe.read_text()
    made, said = climb(recipe, text + LADDER.format(more=""))
    assert made.climb is not None
    assert [(step.rung, step.status) for step in made.climb.steps] == [
        ("rounding int2", "FAIL at first look"),
        ("openvino int4 g128", "PASS"),
    ]
    assert (
        said.count("starting in environment") == 2
    )  # each rung is made; looking and evaluating is a session
    assert (made.weights, made.requested) == ("int4", {"group_size": 128})
    assert len(list(paths.rungs("tiny", "small").glob("*/*/glance.json"))) == 2
    assert len(list(paths.rungs("tiny", "small").glob("*/*/evaluation.json"))) == 1
    assert read(paths.verdict("tiny", "small"), Verdict).status == "PASS"
    assert set(read(paths.evaluation("tiny", "small"), Evaluation).views) == {"deployed", "weights"}

    tighter = text.replace(
        "mean_kl: {bf16: 0.001, int8: 0.001, int4: 0.02,",
        "mean_kl: {bf16: 0.001, int8: 0.001, int4: 0.0001,",
    )
    assert tighter != text
    made, said = climb(recipe, tighter + LADDER.format(more=", int8"))
    assert made.climb is not None
    assert [step.status for step in made.climb.steps] == [
        "FAIL at first look",
        "FAIL at first look",
        "PASS",
    ]
    assert "layers stored as 21 int8" in said
    assert said.count("layers stored as") == 1  # the first two are taken from before
    assert made.weights == "int8"


@needs_int4_on_vllm
@pytest.mark.thorough
def test_the_fastest_that_passes_is_taken_on_vllm(recipe: Path) -> None:
    rungs = "[{quantizer: rounding, weights: int2}, gptq int4 g32, compressed-tensors int4 g32]"
    made, said = climb(
        recipe, recipe.read_text() + f"  small: {{engine: vllm, goal: fastest, ladder: {rungs}}}\n"
    )
    assert made.climb is not None
    assert said.count(" tokens/s\n") == 3  # all are timed
    speeds = [
        step.output_tokens_per_s.median for step in made.climb.steps if step.output_tokens_per_s
    ]
    assert speeds == sorted(speeds, reverse=True)
    assert [step.status for step in made.climb.steps][-1] == "PASS"
    assert made.weights == "int4"
    print(*made.climb.steps, sep="\n")


@needs_int4_on_vllm
@pytest.mark.thorough
def test_the_automatic_ladder_of_vllm_ends_where_the_gate_passes(recipe: Path) -> None:
    made, _ = climb(recipe, recipe.read_text() + "  small: {engine: vllm, ladder: auto}\n")
    assert made.climb is not None
    assert [step.status for step in made.climb.steps][-1] == "PASS"
    assert read(paths.verdict("tiny", "small"), Verdict).status == "PASS"
    print(*made.climb.steps, sep="\n")
