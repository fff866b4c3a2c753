"""A checkpoint and data that none of us wrote, through the whole way up to the verdict."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.errors import RecipeError
from pipeline.quantizers import refusal
from pipeline.recipe import Variant
from pipeline.records import Evaluation, Manifest, Verdict, read
from tests.conftest import REAL, command
from tests.real.prepare import main as prepare

pytestmark = pytest.mark.real


@pytest.mark.engine
@pytest.mark.thorough  # minutes; SmolLM2's blocks go the same way in make test
def test_books_llama_up_to_the_verdict(project: Path) -> None:
    """The recipe with fewer items, so that it takes minutes; the whole one is run by hand."""
    prepare("books-llama", REAL, project)
    recipe = paths.recipe("books-llama")
    text = recipe.read_text().replace(
        "lambada: 800, arc_easy_local: 500, piqa_local: 600", "lambada: 100, piqa_local: 100"
    )
    text = text.replace(
        "texts: [real-wikitext-2, real-held-out-books], window: 256, max_windows: 200",
        "texts: [real-held-out-books], window: 256",
    )
    recipe.write_text(
        text.replace(
            "accuracy_drop: {bf16: 0.01, int8: 0.01", "accuracy_drop: {bf16: 0.05, int8: 0.05"
        )
    )
    subprocess.run(["git", "init", "-q"], check=True)
    assert command("quantgate", "index").returncode == 0
    done = command("dvc", "repro", "gate@books-llama--ov-int8")
    assert done.returncode == 0, done.stderr[-2000:]
    reference = read(paths.evaluation("books-llama", "reference"), Evaluation)
    # training.json of the checkpoint gives 40.63 for the same two books, measured when it was
    # trained.
    assert reference.views["reference"].perplexity[0].value == pytest.approx(40.63, rel=0.02)
    assert read(paths.manifest("books-llama", "ov-int8"), Manifest).stored_types == {"int8": 42}
    verdict = read(paths.verdict("books-llama", "ov-int8"), Verdict)
    undecided = [check for check in verdict.checks if check.status != "PASS"]
    # A model of 5.8 million parameters is at chance on both tasks; all that the texts say is within
    # the limits.
    assert [check.name for check in undecided] == ["accuracy_drop"]
    assert "they tell nothing" in undecided[0].reason


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (Variant(engine="openvino", quantizer="openvino", weights="int4", group_size=64), "Use 4"),
        (Variant(engine="vllm", quantizer="gptq", weights="int4", group_size=4), "multiples of 32"),
    ],
)
def test_an_awkward_shape_is_refused_with_a_remedy(variant: Variant, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        refusal.refuse_shapes(
            Path("recipes/x.yaml"), "v", variant, REAL / "checkpoints" / "stories260k"
        )
