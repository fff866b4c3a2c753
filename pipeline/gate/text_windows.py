"""What the windows of one evaluation text measure in one view, beside the reference's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from pipeline.gate import statistics
from pipeline.gate.limits import Limits
from pipeline.gate.statistics import Estimate
from pipeline.recipe import first_windows
from pipeline.records import DivergedWindow, Divergence, Perplexity, View, Window

P99 = 0.99
ROUNDING = 1e-4


class Measured(NamedTuple):
    """One text in one view, on a scale where 0 is the reference and more is worse: estimates by
    check name."""

    perplexity_ratio: Estimate  # as ln of the ratio
    mean_kl: Estimate
    p99_kl: Estimate
    top1_agreement: Estimate  # as the share that disagrees


class Look(NamedTuple):
    """What of a text is there: the windows scored, those compared, how sure a FAIL is to be, and
    "look 2 of 5" or "" for all."""

    windows: list[int]
    compared: list[int]
    confidence: float
    part: str


def measure(
    view: str, reference: Perplexity, texts: int, views: dict[str, View], limits: Limits
) -> tuple[Measured, Look]:
    """Raises ValueError, with the reason, for anything that is not there in full or not finite."""
    perplexity, divergence = _find(views.get(view), reference)
    count = len(reference.windows)
    if not count:
        raise ValueError("the reference has no window of it")
    look = _look(view, len(perplexity.windows), count, limits)
    places = limits.divergence.places(count, reference.windows[0].tokens, texts)
    pairs = _paired(reference, perplexity, look.windows)
    if [window.index for window in divergence.windows] != look.compared:
        raise ValueError(
            f"distributions of {len(divergence.windows)} windows were compared, expected"
            f" {len(look.compared)}"
        )
    groups = [window.kl_nats for window in divergence.windows]
    counts = [float(len(group)) for group in groups]
    if counts != [float(len(places))] * len(look.compared):
        raise ValueError("not all positions of the compared windows were measured")
    sums = [sum(group) for group in groups]
    differences = [ours.nll_nats - theirs.nll_nats for ours, theirs in pairs]
    changes = [sum(map(abs, window.probability_change)) for window in divergence.windows]
    if not all(map(math.isfinite, [*sums, *differences, *changes])):
        raise ValueError("a log-likelihood, a divergence or a probability is NaN or infinite")
    for window in divergence.windows:
        require_possible(window, len(places))
    misses = [
        count - window.same_top for count, window in zip(counts, divergence.windows, strict=True)
    ]
    tokens = [float(theirs.tokens) for _, theirs in pairs]
    measured = Measured(
        perplexity_ratio=_bounds(lambda c: statistics.ratio(differences, tokens, c), look, limits),
        mean_kl=_bounds(lambda c: statistics.ratio(sums, counts, c), look, limits),
        p99_kl=_bounds(lambda c: statistics.quantile(groups, P99, c), look, limits),
        top1_agreement=_bounds(lambda c: statistics.ratio(misses, counts, c), look, limits),
    )
    return measured, look


def _look(view: str, scored: int, count: int, limits: Limits) -> Look:
    """Raises ValueError if so many windows are those of no look."""
    compared = limits.divergence.chosen(count)
    if view != "deployed":
        return Look(compared, compared, limits.confidence, "")
    number = limits.look_at(scored, count)
    if not limits.sequential:
        return Look(list(range(count)), compared, limits.confidence, "")
    windows, looks = (
        first_windows(count, limits.fractions[number], limits.seed),
        len(limits.fractions),
    )
    part = f"look {number + 1} of {looks}" if scored < count else ""
    return Look(
        windows,
        [window for window in compared if window in windows],
        limits.confidence_at(number),
        part,
    )


def _bounds(estimate: Callable[[float], Estimate], look: Look, limits: Limits) -> Estimate:
    """Every look may FAIL, which shares that error out among them; only all windows may PASS, which
    has its error to itself."""
    return estimate(limits.confidence)._replace(low=estimate(look.confidence).low)


def require_possible(window: DivergedWindow, positions: int) -> None:
    """Raises ValueError for what no two distributions can give (rounding in float32 aside)."""
    if len(window.probability_change) != positions or not 0 <= window.same_top <= positions:
        raise ValueError(
            f"window {window.index} has {window.same_top} same tokens at {positions} positions"
        )
    if any(kl < -ROUNDING for kl in window.kl_nats) or any(
        abs(change) > 1 + ROUNDING for change in window.probability_change
    ):
        raise ValueError(
            f"window {window.index} has a negative divergence, or a probability that changed by"
            " more than 1"
        )


def _find(view: View | None, reference: Perplexity) -> tuple[Perplexity, Divergence]:
    perplexity = (
        next((p for p in view.perplexity if p.text_sha256 == reference.text_sha256), None)
        if view
        else None
    )
    divergence = (
        next((d for d in view.divergence if d.text_sha256 == reference.text_sha256), None)
        if view
        else None
    )
    if perplexity is None or divergence is None:
        raise ValueError("the text was not measured in this view")
    return perplexity, divergence


def _paired(
    reference: Perplexity, candidate: Perplexity, wanted: list[int]
) -> list[tuple[Window, Window]]:
    theirs = {window.index: window for window in reference.windows}
    if [window.index for window in candidate.windows] != wanted:
        raise ValueError(f"{len(candidate.windows)} windows were scored, expected {len(wanted)}")
    pairs = [(window, theirs[window.index]) for window in candidate.windows]
    if any(ours.tokens != other.tokens for ours, other in pairs):
        raise ValueError("windows have other numbers of tokens than the reference's")
    return pairs
