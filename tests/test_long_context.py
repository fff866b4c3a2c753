"""Divergence by position up to the longest context that is served: what is chosen, measured, and
held to the limit."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from pipeline import recipe
from pipeline.engines import Prompt, Visit
from pipeline.engines.fake import VOCABULARY
from pipeline.errors import EvaluationError, RecipeError
from pipeline.evaluation import text
from pipeline.recipe import LongContext, LongWindows, Recipe
from pipeline.records import Evaluation
from tests import evaluations as make
from tests.test_text_measure import OURS, TEXTS, THEIRS, Tabled, decode, made

LONG = LongWindows(LongContext(windows=8, positions=8), short=65, length=260, bos=False)
NAMES = ["0-64", "65-129", "130-258"]


class Forgetful(Tabled):
    """Right for prompts of up to `holds` tokens before a position, another model after that: a
    cache that overflows."""

    def __init__(self, holds: int) -> None:
        super().__init__(THEIRS)
        self._holds, self._later = holds, Tabled(OURS)

    def distributions(self, prompts: list[Prompt], visit: Visit) -> None:
        super().distributions(
            prompts, lambda number, first, found: visit(number, first, found[: self._holds])
        )
        self._later.distributions(
            prompts, lambda number, first, found: visit(number, self._holds, found[self._holds :])
        )


def test_windows_are_joined_and_spans_double() -> None:
    short = np.arange(48 * 65).reshape(48, 65).tolist()
    joined = LONG.joined(short)
    assert (LONG.available(48), {len(row) for row in joined}) == (12, {260})
    assert list(itertools.chain(*joined)) == list(range(48 * 65))
    assert [(span.start, span.stop) for span in LONG.spans] == [(0, 65), (65, 130), (130, 259)]
    assert LONG.chosen(48) == [0, 1, 3, 4, 6, 7, 9, 10]
    assert LONG.places == [
        0,
        8,
        16,
        24,
        32,
        40,
        48,
        56,
        65,
        73,
        81,
        89,
        97,
        105,
        113,
        121,
        130,
        146,
        162,
        178,
        194,
        210,
        226,
        242,
    ]


def test_every_long_window_begins_with_bos_where_short_ones_do() -> None:
    every = LongWindows(LONG.plan, short=5, length=9, bos=True)
    joined = every.joined(
        [
            [0, 1, 2, 3, 4],
            [0, 5, 6, 7, 8],
            [0, 9, 10, 11, 12],
            [0, 13, 14, 15, 16],
            [0, 17, 18, 19, 20],
        ]
    )
    assert joined == [[0, *range(1, 9)], [0, *range(9, 17)]]


def test_divergence_at_long_context_against_float64(tmp_path: Path) -> None:
    text.write_long_reference(Tabled(THEIRS), TEXTS, LONG, tmp_path)
    assert np.load(tmp_path / "x.long.npy").shape == (8, 24, VOCABULARY)
    (found,) = text.measure_long(Forgetful(130), TEXTS, LONG, tmp_path, decode)
    theirs, ours = softmax(THEIRS, axis=1), softmax(OURS, axis=1)
    ids = np.array(TEXTS.texts[0].windows).reshape(12, 260)
    assert [window.index for window in found.windows] == LONG.chosen(48)
    for window in found.windows:
        given = ids[window.index][LONG.places]
        expected = entropy(theirs[given], ours[given], axis=1)
        expected[:16] = 0
        np.testing.assert_allclose(window.kl_nats, expected, rtol=2e-5, atol=1e-6)


def test_a_text_that_is_too_short_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        EvaluationError, match=r"the 31 windows of 'x' make 7 of serve.max_model_len \(260 tokens\)"
    ):
        text.write_long_reference(Tabled(THEIRS), made(31), LONG, tmp_path)


NLL = np.linspace(60, 70, 48)
SCORES = make.draws(np.tile([1.0, 1.0, 0.0], 1000))


def evaluated(kl: list[float], vary: float = 0.1) -> Evaluation:
    """Mean KL of each span, the same in all windows but for a spread of 10 %."""
    spread = 1 + vary * np.linspace(-1, 1, 8)[:, None]
    values = np.repeat(kl, 8)[None] * spread
    found = make.candidate(NLL, [SCORES])
    return make.with_view(
        found, "deployed", long_context=[make.divergence(values, LONG.chosen(48))]
    )


def judged(
    ours: Evaluation, floor: Evaluation | None = None, quantized: bool = False
) -> dict[str, str]:
    found = make.checks(make.reference(NLL, [SCORES]), ours, floor, long=LONG, quantized=quantized)
    return {
        name.removeprefix("long_context_kl deployed x").strip(): check.status
        for name, check in found.items()
        if name.startswith("long_context_kl")
    }


def test_each_span_is_held_to_the_limit_of_the_mean() -> None:
    assert judged(evaluated([0.01, 0.01, 0.01])) == dict.fromkeys(NAMES, "PASS")
    assert judged(evaluated([0.001, 0.001, 0.05])) == dict(
        zip(NAMES, ["PASS", "PASS", "FAIL"], strict=True)
    )
    assert judged(evaluated([0.001, 0.02, 0.02]))["65-129"] == "INCONCLUSIVE"
    assert (
        make.checks(make.reference(NLL, [SCORES]), evaluated([1, 1, 1])).keys()
        == make.checks(make.reference(NLL, [SCORES]), make.candidate(NLL, [SCORES])).keys()
    )


def test_what_was_not_measured_fails() -> None:
    whole = evaluated([0.01, 0.01, 0.01])
    assert judged(make.candidate(NLL, [SCORES])) == {"": "FAIL"}
    for values in (np.full((8, 23), 0.01), np.full((8, 24), np.nan), np.full((8, 24), -1.0)):
        assert judged(
            make.with_view(
                whole, "deployed", long_context=[make.divergence(values, LONG.chosen(48))]
            )
        ) == {"": "FAIL"}
    others = [make.divergence(np.full((8, 24), 0.01), list(range(8)))]
    assert judged(make.with_view(whole, "deployed", long_context=others)) == {"": "FAIL"}


def test_the_engines_own_noise_at_that_length_counts() -> None:
    ours, floor = evaluated([0.01, 0.01, 0.015]), evaluated([0.001, 0.001, 0.01])
    assert judged(ours, floor, quantized=True) == dict(
        zip(NAMES, ["PASS", "PASS", "INCONCLUSIVE"], strict=True)
    )
    assert judged(ours, make.candidate(NLL, [SCORES]), quantized=True) == {"": "FAIL"}


@pytest.mark.parametrize(
    ("serve", "most", "said"),
    [
        (
            "max_model_len: 511",
            "",
            "serve.max_model_len of at least twice evaluate.perplexity.window .512., found 511",
        ),
        (
            "max_model_len: 512",
            ", max_windows: 15",
            "needs 8 windows of serve.max_model_len .512., .*max_windows 15 .* make 7",
        ),
    ],
)
def test_a_recipe_that_cannot_have_long_windows_is_refused(
    project: Path, serve: str, most: str, said: str
) -> None:
    path = project / "recipes" / "tiny.yaml"
    asked = path.read_text().replace(
        "window: 256}", f"window: 256{most}}}\n  long_context: {{windows: 8}}"
    )
    path.write_text(asked.replace("max_model_len: 512", serve))
    with pytest.raises(RecipeError, match=said):
        recipe.load("tiny")


def test_a_recipe_may_ask_for_it(project: Path) -> None:
    path = project / "recipes" / "tiny.yaml"
    path.write_text(
        path.read_text().replace("window: 256}", "window: 256}\n  long_context: {windows: 8}")
    )
    found: Recipe = recipe.load("tiny")
    long = found.evaluate.long_windows(found.serve.max_model_len)
    assert long is not None
    assert long.spans == [range(256), range(256, 511)]
