"""One pass over the evaluation texts: perplexity, and divergence from the reference's next-token distributions.

Perplexity by the GPTQ paper's protocol (arXiv 2210.17323, section 4): the windows made at calibration, scored whole;
PPL = exp(sum of negative log-likelihoods / scored tokens). Divergence is KL(reference || artifact) in nats over the full
vocabulary in float32, as llama.cpp's perplexity tool defines it, at positions whose reference distributions were stored.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.engines import Distributions
from pipeline.errors import EvaluationError
from pipeline.recipe import Divergence as PlannedDivergence
from pipeline.records import DivergedWindow, Divergence, Perplexity, Text, Texts, Window, WorstToken

WORST = 20
CONTEXT = 16  # tokens shown before a worst token
BLOCK = 1 << 24  # values worked on at once: bounds the float32 temporaries to a few times 64 MiB

Decode = Callable[[list[int]], str]


def chosen(texts: Texts, plan: PlannedDivergence) -> dict[str, list[int]]:
    """The windows of each text whose distributions are compared."""
    return {text.name: plan.windows(len(text.windows), len(text.windows[0]) - 1, len(texts.texts)) for text in texts.texts}


def write_reference(model: Distributions, texts: Texts, plan: PlannedDivergence, folder: Path) -> list[Perplexity]:
    """Scores all windows and stores float32 log-probabilities [windows, positions, vocabulary] of the chosen ones."""
    picked = chosen(texts, plan)
    results = []
    for text in texts.texts:
        store = _Store(folder / f"{text.name}.npy", picked[text.name], len(text.windows[0]) - 1)
        results.append(_score(model, text, list(range(len(text.windows))), store, "reference"))
        store.close()
    return results


def measure(
    model: Distributions, texts: Texts, plan: PlannedDivergence, folder: Path, decode: Decode, everything: bool, label: str
) -> tuple[list[Perplexity], list[Divergence]]:
    """Perplexity over all windows (`everything`) or over the chosen ones alone; divergence over the chosen ones.

    Non-finite values are kept: the gate fails them. Raises EvaluationError if the vocabularies differ in size.
    """
    picked = chosen(texts, plan)
    perplexities, divergences = [], []
    for text in texts.texts:
        comparison = _Comparison(folder / f"{text.name}.npy", text, picked[text.name])
        indices = list(range(len(text.windows))) if everything else picked[text.name]
        perplexities.append(_score(model, text, indices, comparison, label))
        divergences.append(comparison.result(decode))
    return perplexities, divergences


def _score(model: Distributions, text: Text, indices: list[int], listener: _Store | _Comparison, label: str) -> Perplexity:
    rows = [text.windows[index] for index in indices]
    nll = [0.0] * len(rows)
    with tqdm(total=len(rows), desc=f"{label} {text.name}", unit="window", mininterval=2) as bar:

        def visit(number: int, first: int, logprobs: Any) -> None:
            targets = rows[number][first + 1 : first + 1 + len(logprobs)]
            nll[number] -= float(logprobs[np.arange(len(targets)), targets].sum(dtype=np.float64))
            listener(indices[number], first, logprobs)
            bar.update(first + len(targets) == len(rows[number]) - 1)

        model.distributions(rows, visit)
    windows = [
        Window(index=index, nll_nats=value, tokens=len(row) - 1, bytes=text.bytes[index])
        for index, value, row in zip(indices, nll, rows, strict=True)
    ]
    return Perplexity(text=text.name, text_sha256=text.sha256, windows=windows)


class _Store:
    """Writes the reference's distributions of the chosen windows; the file's size follows from the first piece."""

    def __init__(self, path: Path, windows: list[int], scored: int) -> None:
        self._path, self._scored = path, scored
        self._places = {window: place for place, window in enumerate(windows)}
        self._array: Any = None

    def __call__(self, window: int, first: int, logprobs: Any) -> None:
        place = self._places.get(window)
        if place is None:
            return
        if self._array is None:
            shape = (len(self._places), self._scored, logprobs.shape[1])
            self._array = np.lib.format.open_memmap(self._path, mode="w+", dtype=np.float32, shape=shape)
        self._array[place, first : first + len(logprobs)] = logprobs

    def close(self) -> None:
        self._array.flush()
        del self._array


class _Comparison:
    """KL, top-1 agreement and probability change against the stored distributions, and the worst tokens."""

    def __init__(self, path: Path, text: Text, windows: list[int]) -> None:
        self._reference = np.load(path, mmap_mode="r")
        self._path, self._text = path, text
        self._places = {window: place for place, window in enumerate(windows)}
        self._kl: dict[int, list[float]] = {window: [] for window in windows}
        self._change: dict[int, list[float]] = {window: [] for window in windows}
        self._same = dict.fromkeys(windows, 0)
        self._worst: list[tuple[float, int, int, tuple[int, int, float, float]]] = []

    def __call__(self, window: int, first: int, logprobs: Any) -> None:
        if window not in self._places:
            return
        if logprobs.shape[1] != self._reference.shape[2]:
            raise EvaluationError(
                f"the artifact has a vocabulary of {logprobs.shape[1]} tokens, the reference in {self._path} one of "
                f"{self._reference.shape[2]}. Quantize the checkpoint that is pinned."
            )
        step = max(1, BLOCK // logprobs.shape[1])
        for start in range(0, len(logprobs), step):
            self._compare(window, first + start, logprobs[start : start + step])

    def _compare(self, window: int, first: int, ours: Any) -> None:
        theirs = self._reference[self._places[window], first : first + len(ours)]
        rows = np.arange(len(ours))
        targets = self._text.windows[window][first + 1 : first + 1 + len(ours)]
        kl = (np.exp(theirs) * (theirs - ours)).sum(-1, dtype=np.float64)
        top, reference_top = ours.argmax(-1), theirs.argmax(-1)
        probability, reference_probability = np.exp(ours[rows, targets]), np.exp(theirs[rows, targets])
        self._kl[window] += _short(kl)
        self._change[window] += _short(probability - reference_probability)
        self._same[window] += int((top == reference_top).sum())
        for row in np.argsort(np.nan_to_num(kl, nan=np.inf))[-WORST:].tolist():
            about = int(reference_top[row]), int(top[row]), float(reference_probability[row]), float(probability[row])
            heapq.heappush(self._worst, (float(np.nan_to_num(kl[row], nan=np.inf)), window, first + row, about))
        self._worst = heapq.nlargest(WORST, self._worst)
        heapq.heapify(self._worst)

    def result(self, decode: Decode) -> Divergence:
        windows = [
            DivergedWindow(index=window, kl_nats=self._kl[window], probability_change=self._change[window],
                           same_top=self._same[window])
            for window in self._places
        ]  # fmt: skip
        worst = [self._describe(*entry, decode) for entry in sorted(self._worst, reverse=True)]
        return Divergence(text=self._text.name, text_sha256=self._text.sha256, windows=windows, worst=worst)

    def _describe(self, kl: float, window: int, position: int, about: tuple[int, int, float, float], decode: Decode) -> WorstToken:
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
