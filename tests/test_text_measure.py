"""Perplexity and divergence over the texts, against float64 by scipy."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from pipeline.engines import Prompt, Visit
from pipeline.engines.fake import VOCABULARY, FakeEngine
from pipeline.errors import EvaluationError
from pipeline.evaluation import text
from pipeline.recipe import Divergence as Plan
from pipeline.recipe import Serve
from pipeline.records import Perplexity, Text, Texts

SERVE = Serve(max_model_len=512)
PLAN = Plan(positions=1024, windows=16)


class Tabled(FakeEngine):
    """The fake engine with another table, and its windows handed over in pieces of at most `piece`
    positions."""

    def __init__(self, table: np.ndarray, piece: int = 10**9) -> None:
        super().__init__(Path(), SERVE)
        self._logits, self._piece = table.tolist(), piece

    def distributions(self, prompts: list[Prompt], visit: Visit) -> None:
        def cut(number: int, first: int, logprobs: Any) -> None:
            for start in range(0, len(logprobs), self._piece):
                visit(number, first + start, logprobs[start : start + self._piece].copy())

        super().distributions(prompts, cut)


class Raw(Tabled):
    """Hands over a table of log-probabilities as it is, NaN and all."""

    def distributions(self, prompts: list[Prompt], visit: Visit) -> None:
        table = np.array(self._logits, dtype=np.float32)
        for number, prompt in enumerate(prompts):
            visit(number, 0, table[prompt.ids])


def logits(seed: int, size: int = VOCABULARY) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (VOCABULARY, size))


def made(count: int, names: str = "x", tokens: int = 65) -> Texts:
    """Texts of random tokens, `tokens` - 1 of each window scored."""
    rng = np.random.default_rng(9)
    windows = {name: rng.integers(0, VOCABULARY, (count, tokens)).tolist() for name in names}
    return Texts(
        texts=[
            Text(
                name=name,
                bos="first",
                characters=0,
                tokens_dropped=0,
                sha256=f"of {name}",
                windows=rows,
                bytes=[3 * index for index in range(count)],
            )
            for name, rows in windows.items()
        ]
    )


def decode(ids: list[int]) -> str:
    return " ".join(map(str, ids))


def compared(
    ours: FakeEngine, texts: Texts, folder: Path, everything: bool = True, plan: Plan = PLAN
) -> text.Measured:
    return text.measure(
        ours,
        texts,
        plan,
        folder,
        decode,
        "test",
        lambda count: list(range(count)) if everything else plan.chosen(count),
    )


THEIRS, OURS = logits(1), logits(1) + 0.3 * logits(2)
TEXTS = made(48)
CHOSEN = list(range(0, 48, 3))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Perplexity]]:
    folder = tmp_path_factory.mktemp("reference")
    return folder, text.write_reference(Tabled(THEIRS), TEXTS, PLAN, folder)


def test_the_reference_is_scored_whole_and_stored_in_part(
    stored: tuple[Path, list[Perplexity]],
) -> None:
    folder, (found,) = stored
    exact = log_softmax(THEIRS, axis=1)
    for window, ids in zip(found.windows, TEXTS.texts[0].windows, strict=True):
        expected = -sum(exact[a, b] for a, b in itertools.pairwise(ids))
        assert window.nll_nats == pytest.approx(expected, rel=1e-6)
        assert (window.tokens, window.bytes) == (64, 3 * window.index)
    assert [window.index for window in found.windows] == list(range(48))
    array = np.load(folder / "x.npy")
    assert (array.shape, array.dtype) == ((16, 64, VOCABULARY), np.float32)
    for place, index in enumerate(CHOSEN):
        np.testing.assert_allclose(
            array[place], exact[TEXTS.texts[0].windows[index][:-1]], rtol=1e-6
        )


def test_an_engine_compared_with_itself(stored: tuple[Path, list[Perplexity]]) -> None:
    folder, reference = stored
    perplexity, (found,) = compared(Tabled(THEIRS), TEXTS, folder)
    assert perplexity == reference
    assert [window.index for window in found.windows] == CHOSEN
    for window in found.windows:
        assert window.kl_nats == [0.0] * 64
        assert window.probability_change == [0.0] * 64
        assert window.same_top == 64


def test_divergence_against_float64(stored: tuple[Path, list[Perplexity]]) -> None:
    folder, _ = stored
    _, (found,) = compared(Tabled(OURS), TEXTS, folder)
    theirs, ours = softmax(THEIRS, axis=1), softmax(OURS, axis=1)
    for window in found.windows:
        ids = np.array(TEXTS.texts[0].windows[window.index])
        given, target = ids[:-1], ids[1:]
        np.testing.assert_allclose(
            window.kl_nats, entropy(theirs[given], ours[given], axis=1), rtol=2e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            window.probability_change,
            ours[given, target] - theirs[given, target],
            rtol=1e-4,
            atol=1e-6,
        )
        assert window.same_top == (theirs[given].argmax(1) == ours[given].argmax(1)).sum()
    assert 0 < sum(window.same_top for window in found.windows) < 16 * 64


def test_the_worst_tokens_are_the_worst(stored: tuple[Path, list[Perplexity]]) -> None:
    folder, _ = stored
    _, (found,) = compared(Tabled(OURS, piece=7), TEXTS, folder)
    theirs, ours = softmax(THEIRS, axis=1), softmax(OURS, axis=1)
    exact = {
        (index, place): entropy(theirs[ids[place]], ours[ids[place]])
        for index, ids in enumerate(TEXTS.texts[0].windows)
        if index in CHOSEN
        for place in range(64)
    }
    assert [worst.kl_nats for worst in found.worst] == pytest.approx(
        sorted(exact.values(), reverse=True)[: text.WORST], rel=1e-4
    )
    assert len({(worst.window, worst.position) for worst in found.worst}) == text.WORST
    for worst in found.worst:
        ids = TEXTS.texts[0].windows[worst.window]
        given, target = ids[worst.position], ids[worst.position + 1]
        assert worst.kl_nats == pytest.approx(exact[worst.window, worst.position], rel=1e-4)
        assert worst.token == str(target)
        assert worst.context == decode(
            ids[max(0, worst.position - text.CONTEXT + 1) : worst.position + 1]
        )
        assert (worst.reference_top, worst.top) == (
            str(theirs[given].argmax()),
            str(ours[given].argmax()),
        )
        assert worst.probability == pytest.approx(ours[given, target], rel=1e-4)
        assert worst.reference_probability == pytest.approx(theirs[given, target], rel=1e-4)


@pytest.mark.parametrize("piece", [1, 7, 63, 64])
def test_pieces_change_nothing(
    stored: tuple[Path, list[Perplexity]],
    tmp_path: Path,
    piece: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, reference = stored
    again = text.write_reference(Tabled(THEIRS, piece), TEXTS, PLAN, tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.load(folder / "x.npy"))
    whole, parts = (
        compared(Tabled(OURS), TEXTS, folder),
        compared(Tabled(OURS, piece), TEXTS, folder),
    )
    for one, other in ((reference, again), (whole[0], parts[0])):
        assert [w.nll_nats for w in one[0].windows] == pytest.approx(
            [w.nll_nats for w in other[0].windows], rel=1e-12
        )
    # Rows worked on in blocks, as with a large vocabulary.
    monkeypatch.setattr(text, "BLOCK", 5 * VOCABULARY)
    blocks = compared(Tabled(OURS, piece), TEXTS, folder)
    for found in (parts, blocks):
        assert found[1][0].windows == whole[1][0].windows
        assert {(w.window, w.position, w.kl_nats) for w in found[1][0].worst[:5]} <= {
            (w.window, w.position, w.kl_nats) for w in whole[1][0].worst
        }
        assert [w.kl_nats for w in found[1][0].worst] == [w.kl_nats for w in whole[1][0].worst]


def test_the_weights_view_scores_the_chosen_windows_alone(
    stored: tuple[Path, list[Perplexity]],
) -> None:
    folder, _ = stored
    (every,), whole = compared(Tabled(OURS), TEXTS, folder)
    (few,), part = compared(Tabled(OURS), TEXTS, folder, everything=False)
    assert few.windows == [every.windows[index] for index in CHOSEN]
    assert part == whole


def test_several_texts_keep_apart(tmp_path: Path) -> None:
    texts = made(48, "xyz")
    text.write_reference(Tabled(THEIRS), texts, PLAN, tmp_path)
    perplexities, divergences = compared(Tabled(THEIRS), texts, tmp_path)
    assert [(p.text, p.text_sha256) for p in perplexities] == [
        (name, f"of {name}") for name in "xyz"
    ]
    assert [[window.index for window in found.windows] for found in divergences] == [CHOSEN] * 3
    # 1024 positions of 3 x 16 windows of 64: every third of them.
    assert {window.same_top for found in divergences for window in found.windows} == {22}


def test_every_nth_position_is_that_position(
    stored: tuple[Path, list[Perplexity]], tmp_path: Path
) -> None:
    folder, _ = stored
    fewer = Plan(positions=512, windows=16)
    text.write_reference(Tabled(THEIRS), TEXTS, fewer, tmp_path)
    _, (every,) = compared(Tabled(OURS), TEXTS, folder)
    for piece in (5, 64):
        _, (second,) = compared(Tabled(OURS, piece), TEXTS, tmp_path, plan=fewer)
        for few, all_ in zip(second.windows, every.windows, strict=True):
            assert few.kl_nats == all_.kl_nats[::2]
            assert few.probability_change == all_.probability_change[::2]
    assert {worst.position % 2 for worst in second.worst} == {0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_kept(stored: tuple[Path, list[Perplexity]], value: float) -> None:
    folder, _ = stored
    table = log_softmax(OURS, axis=1)
    given, target = TEXTS.texts[0].windows[3][10:12]
    table[given, target] = value
    (perplexity,), (found,) = compared(Raw(table), TEXTS, folder)
    assert not math.isfinite(perplexity.windows[3].nll_nats)
    assert not math.isfinite(found.windows[1].kl_nats[10])
    # It survives the file, so that the gate sees it.
    again = Perplexity.model_validate_json(perplexity.dumps())
    assert not math.isfinite(again.windows[3].nll_nats)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_is_not_finite_is_the_worst(
    stored: tuple[Path, list[Perplexity]], value: float
) -> None:
    folder, _ = stored
    table = log_softmax(OURS, axis=1)
    table[TEXTS.texts[0].windows[3][10], 0] = value
    _, (found,) = compared(Raw(table), TEXTS, folder)
    assert (found.worst[0].kl_nats, len(found.worst)) == (math.inf, text.WORST)


@pytest.mark.parametrize("size", [VOCABULARY + 1, VOCABULARY + 64])
def test_another_vocabulary(stored: tuple[Path, list[Perplexity]], size: int) -> None:
    folder, _ = stored
    with pytest.raises(
        EvaluationError, match=rf"vocabulary of {size} tokens, the reference .*\s{VOCABULARY}\."
    ):
        compared(Tabled(logits(1, size)), TEXTS, folder)


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    """The distributions of ten times the windows would take ten times the 80 KiB x windows."""
    peaks = {}
    for count in (10, 100):
        texts, folder = made(count, tokens=641), tmp_path / str(count)
        folder.mkdir()
        tracemalloc.start()
        text.write_reference(Tabled(THEIRS), texts, PLAN, folder)
        compared(Tabled(OURS), texts, folder)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    ids = 8 * 640 * 90  # bytes of the prompts themselves
    assert peaks[100] < peaks[10] + ids + 200_000
    assert peaks[100] < 100 * 640 * VOCABULARY * 4 / 5


@pytest.mark.parametrize(
    ("plan", "count", "scored", "texts"),
    [
        ((512, 16), 12, 64, 1),
        ((8192, 32), 141, 2047, 1),
        ((8192, 32), 141, 2047, 3),
        ((16384, 64), 135, 255, 1),
        ((600, 16), 3, 64, 1),
        ((512, 16), 1, 2047, 4),
        ((100_000, 16), 20, 255, 1),
    ],
)
def test_what_is_compared_is_spread_and_enough(
    plan: tuple[int, int], count: int, scored: int, texts: int
) -> None:
    planned = Plan(positions=plan[0], windows=plan[1])
    windows, places = planned.chosen(count), planned.places(count, scored, texts)
    assert windows == sorted(set(windows))
    assert (windows[0], len(windows)) == (0, min(count, plan[1]))
    assert windows[-1] < count
    steps = {b - a for a, b in itertools.pairwise([*windows, count])}
    assert max(steps) - min(steps) <= 1
    assert texts * len(windows) * len(places) >= min(plan[0], texts * len(windows) * scored)
    assert texts * len(windows) * (len(places) - 1) < 2 * plan[0]
