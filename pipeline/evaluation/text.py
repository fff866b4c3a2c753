"""One pass over the evaluation texts: perplexity, and divergence from the reference's next-token
distributions.

Perplexity by the GPTQ paper's protocol (arXiv 2210.17323, section 4): the windows made at
calibration, scored whole; PPL = exp(sum of negative log-likelihoods / scored tokens). Divergence is
KL(reference || artifact) in nats over the full vocabulary in float32, as llama.cpp's perplexity
tool defines it, at positions whose reference distributions were stored."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from pipeline.engines import Distributions, Prompt
from pipeline.errors import EvaluationError
from pipeline.recipe import Divergence as PlannedDivergence
from pipeline.recipe import LongWindows, first_windows
from pipeline.recipe.long_context import LEAST
from pipeline.records import DivergedWindow, Divergence, Perplexity, Text, Texts, Window, WorstToken

WORST = 20
CONTEXT = 16  # tokens shown before a worst token
BLOCK = 1 << 24  # values worked on at once: bounds the float32 temporaries to a few times 64 MiB

Listener = Callable[
    [int, int, Any], None
]  # (number of the window, first position, log-probabilities [rows, vocabulary])
Decode = Callable[[list[int]], str]
Wanted = Callable[[int], list[int]]  # which windows of a text that has so many


class Measured(NamedTuple):
    """Of each text in turn."""

    perplexity: list[Perplexity]
    divergence: list[Divergence]


class Chosen(NamedTuple):
    """What of a text is compared: windows by number, and the same positions in each."""

    windows: list[int]
    places: Sequence[int]

    def rows(self, first: int, count: int) -> list[int]:
        """Which rows of a piece of `count` positions that begins at `first` are compared."""
        return [place - first for place in self.places if first <= place < first + count]


def chosen(text: Text, texts: int, plan: PlannedDivergence) -> Chosen:
    count, scored = len(text.windows), len(text.windows[0]) - 1
    return Chosen(plan.chosen(count), plan.places(count, scored, texts))


def write_reference(
    model: Distributions, texts: Texts, plan: PlannedDivergence, folder: Path
) -> list[Perplexity]:
    """Scores all windows and stores float32 log-probabilities [windows, positions, vocabulary] of
    the chosen positions."""
    results = []
    for text in texts.texts:
        store = _Store(folder / f"{text.name}.npy", chosen(text, len(texts.texts), plan))
        results.append(score(model, text, list(range(len(text.windows))), store, "reference"))
        store.close()
    return results


def measure(
    model: Distributions,
    texts: Texts,
    plan: PlannedDivergence,
    folder: Path,
    decode: Decode,
    label: str,
    wanted: Wanted,
) -> Measured:
    """Perplexity over the wanted windows; divergence over those of them that are compared.

    Non-finite values are kept: the gate fails them. Raises EvaluationError if the vocabularies
    differ in size."""
    perplexities, divergences = [], []
    for text in texts.texts:
        indices = wanted(len(text.windows))
        comparison = _Comparison(
            folder / f"{text.name}.npy", text, chosen(text, len(texts.texts), plan)
        )
        perplexities.append(score(model, text, indices, comparison, label))
        divergences.append(comparison.result(decode, indices))
    return Measured(perplexities, divergences)


def grown(
    measured: Callable[[Wanted], Measured], looks: list[float], seed: int
) -> Iterator[Measured]:
    """What was measured by each look, which has this fraction of the windows; each window is scored
    once."""
    whole, before = Measured([], []), 0.0
    for fraction in looks:

        def added(count: int, before: float = before, fraction: float = fraction) -> list[int]:
            known = first_windows(count, before, seed) if before else []
            return sorted({*first_windows(count, fraction, seed)} - {*known})

        more = measured(added)
        whole, before = _joined(whole, more) if before else more, fraction
        yield whole


def _joined(first: Measured, more: Measured) -> Measured:
    """What was measured of other windows of the same texts, together."""
    perplexities = [
        a.model_copy(
            update={"windows": sorted([*a.windows, *b.windows], key=lambda window: window.index)}
        )
        for a, b in zip(first.perplexity, more.perplexity, strict=True)
    ]
    divergences = [
        a.model_copy(
            update={
                "windows": sorted([*a.windows, *b.windows], key=lambda window: window.index),
                "worst": heapq.nlargest(
                    WORST, [*a.worst, *b.worst], key=lambda worst: worst.kl_nats
                ),
            }
        )
        for a, b in zip(first.divergence, more.divergence, strict=True)
    ]
    return Measured(perplexities, divergences)


def glance(
    model: Distributions, texts: Texts, plan: PlannedDivergence, folder: Path, windows: int
) -> dict[str, list[list[float]]]:
    """KL in nats at `windows` of the compared windows of each text, [windows][positions], by
    text."""
    divergences = {}
    for text in texts.texts:
        picked = chosen(text, len(texts.texts), plan)
        some = [
            picked.windows[place * len(picked.windows) // windows]
            for place in range(min(windows, len(picked.windows)))
        ]
        comparison = _Comparison(folder / f"{text.name}.npy", text, picked)
        score(model, text, some, comparison, "first look at")
        divergences[text.name] = [comparison.kl_nats(window) for window in some]
    return divergences


def write_long_reference(
    model: Distributions, texts: Texts, long: LongWindows, folder: Path
) -> None:
    """Stores the reference's log-probabilities at the chosen positions of long windows. Raises
    EvaluationError for a short text."""
    for text in texts.texts:
        joined, picked = _long_text(text, long)
        store = _Store(_long_path(folder, text), picked)
        _visit_chosen(model, joined, picked, store)
        store.close()


def measure_long(
    model: Distributions, texts: Texts, long: LongWindows, folder: Path, decode: Decode
) -> list[Divergence]:
    """Divergence at those positions."""
    results = []
    for text in texts.texts:
        joined, picked = _long_text(text, long)
        comparison = _Comparison(_long_path(folder, text), joined, picked)
        _visit_chosen(model, joined, picked, comparison)
        results.append(comparison.result(decode, picked.windows))
    return results


def _long_text(text: Text, long: LongWindows) -> tuple[Text, Chosen]:
    """The text in long windows, and what of them is compared."""
    count = long.available(len(text.windows))
    if count < LEAST:
        raise EvaluationError(
            f"evaluate.long_context: the {len(text.windows)} windows of {text.name!r} make {count}"
            f" of serve.max_model_len ({long.length} tokens), expected at least {LEAST}. Raise"
            " evaluate.perplexity.max_windows or take a longer text."
        )
    return text.model_copy(update={"windows": long.joined(text.windows)}), Chosen(
        long.chosen(len(text.windows)), long.places
    )


def _long_path(folder: Path, text: Text) -> Path:
    return folder / f"{text.name}.long.npy"


def _visit_chosen(model: Distributions, text: Text, picked: Chosen, listener: Listener) -> None:
    rows = [text.windows[window] for window in picked.windows]
    model.distributions(
        [Prompt(row[:-1]) for row in rows],
        lambda number, first, logprobs: listener(picked.windows[number], first, logprobs),
    )


def score(
    model: Distributions, text: Text, indices: list[int], listener: Listener, label: str
) -> Perplexity:
    """Perplexity over the windows of these numbers; `listener` gets every piece of their
    distributions."""
    rows = [text.windows[index] for index in indices]
    nll = [0.0] * len(rows)
    with tqdm(total=len(rows), desc=f"{label} {text.name}", unit="window", mininterval=2) as bar:

        def visit(number: int, first: int, logprobs: Any) -> None:
            targets = rows[number][first + 1 : first + 1 + len(logprobs)]
            nll[number] -= float(logprobs[np.arange(len(targets)), targets].sum(dtype=np.float64))
            listener(indices[number], first, logprobs)
            bar.update(first + len(targets) == len(rows[number]) - 1)

        model.distributions([Prompt(row[:-1]) for row in rows], visit)
    windows = [
        Window(index=index, nll_nats=value, tokens=len(row) - 1, bytes=text.bytes[index])
        for index, value, row in zip(indices, nll, rows, strict=True)
    ]
    return Perplexity(text=text.name, text_sha256=text.sha256, windows=windows)


class _Store:
    """Writes the reference's distributions at the chosen positions; the vocabulary's size is that
    of the first piece."""

    def __init__(self, path: Path, picked: Chosen) -> None:
        self._path, self._picked = path, picked
        self._numbers = {window: number for number, window in enumerate(picked.windows)}
        self._array: Any = None

    def __call__(self, window: int, first: int, logprobs: Any) -> None:
        number = self._numbers.get(window)
        if number is None:
            return
        if self._array is None:
            shape = (len(self._numbers), len(self._picked.places), logprobs.shape[1])
            self._array = np.lib.format.open_memmap(
                self._path, mode="w+", dtype=np.float32, shape=shape
            )
        rows = self._picked.rows(first, len(logprobs))
        self._array[number, [self._picked.places.index(first + row) for row in rows]] = logprobs[
            rows
        ]

    def close(self) -> None:
        self._array.flush()
        del self._array


class _Comparison:
    """KL, top-1 agreement and probability change against the stored distributions, and the worst
    tokens."""

    def __init__(self, path: Path, text: Text, picked: Chosen) -> None:
        self._reference = np.load(path, mmap_mode="r")
        self._path, self._text, self._picked = path, text, picked
        self._numbers = {window: number for number, window in enumerate(picked.windows)}
        self._kl: dict[int, list[float]] = {window: [] for window in picked.windows}
        self._change: dict[int, list[float]] = {window: [] for window in picked.windows}
        self._same = dict.fromkeys(picked.windows, 0)
        self._worst: list[tuple[float, int, int, tuple[int, int, float, float]]] = []

    def __call__(self, window: int, first: int, logprobs: Any) -> None:
        if window not in self._numbers:
            return
        if logprobs.shape[1] != self._reference.shape[2]:
            raise EvaluationError(
                f"the artifact has a vocabulary of {logprobs.shape[1]} tokens, the reference in"
                f" {self._path} one of {self._reference.shape[2]}. Quantize the checkpoint that is"
                " pinned."
            )
        rows = self._picked.rows(first, len(logprobs))
        step = max(1, BLOCK // logprobs.shape[1])
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            self._compare(window, [first + row for row in part], logprobs[part])

    def _compare(self, window: int, positions: list[int], ours: Any) -> None:
        theirs = self._reference[
            self._numbers[window], [self._picked.places.index(position) for position in positions]
        ]
        rows = np.arange(len(ours))
        targets = [self._text.windows[window][position + 1] for position in positions]
        kl = (np.exp(theirs) * (theirs - ours)).sum(-1, dtype=np.float64)
        top, reference_top = ours.argmax(-1), theirs.argmax(-1)
        probability, reference_probability = (
            np.exp(ours[rows, targets]),
            np.exp(theirs[rows, targets]),
        )
        self._kl[window] += _short(kl)
        self._change[window] += _short(probability - reference_probability)
        self._same[window] += int((top == reference_top).sum())
        for row in np.argsort(np.nan_to_num(kl, nan=np.inf, posinf=np.inf))[-WORST:].tolist():
            about = (
                int(reference_top[row]),
                int(top[row]),
                float(reference_probability[row]),
                float(probability[row]),
            )
            heapq.heappush(
                self._worst,
                (
                    float(np.nan_to_num(kl[row], nan=np.inf, posinf=np.inf)),
                    window,
                    positions[row],
                    about,
                ),
            )
        self._worst = heapq.nlargest(WORST, self._worst)
        heapq.heapify(self._worst)

    def kl_nats(self, window: int) -> list[float]:
        return self._kl[window]

    def result(self, decode: Decode, scored: list[int]) -> Divergence:
        windows = [
            DivergedWindow(
                index=window,
                kl_nats=self._kl[window],
                probability_change=self._change[window],
                same_top=self._same[window],
            )
            for window in self._numbers
            if window in scored
        ]
        worst = [self._describe(*entry, decode) for entry in sorted(self._worst, reverse=True)]
        return Divergence(
            text=self._text.name, text_sha256=self._text.sha256, windows=windows, worst=worst
        )

    def _describe(
        self,
        kl: float,
        window: int,
        position: int,
        about: tuple[int, int, float, float],
        decode: Decode,
    ) -> WorstToken:
        ids = self._text.windows[window]
        reference_top, top, reference_probability, probability = about
        return WorstToken(
            window=window,
            position=position,
            kl_nats=kl,
            context=decode(ids[max(0, position + 1 - CONTEXT) : position + 1]),
            token=decode([ids[position + 1]]),
            reference_probability=reference_probability,
            probability=probability,
            reference_top=decode([reference_top]),
            top=decode([top]),
        )


def _short(values: Any) -> list[float]:
    """Seven significant digits: what float32 holds."""
    return [float(f"{value:.6e}") for value in values.tolist()]
