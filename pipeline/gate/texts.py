"""Checks on the evaluation texts, per view: perplexity, and divergence of the next-token
distributions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pipeline.gate import statistics
from pipeline.gate.limits import (
    FLOORS,
    Limits,
    failed,
    status,
    unseen,
    windows_for,
    words,
    worst,
)
from pipeline.gate.statistics import Estimate
from pipeline.recipe import first_windows
from pipeline.records import (
    Check,
    DivergedWindow,
    Divergence,
    Evaluation,
    Perplexity,
    Question,
    Status,
    Tails,
    View,
    Window,
)

TAILS = (0.001, 0.01, 0.05, 0.5, 0.95, 0.99, 0.999)
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


def beyond(reference: Evaluation, views: dict[str, View], limits: Limits) -> bool:
    """Is a text beyond a limit as served, at the windows that were scored so far? More of them
    would only confirm it."""
    return as_served(reference, views, limits) == "FAIL"


def as_served(reference: Evaluation, views: dict[str, View], limits: Limits) -> Status:
    """What the windows that were scored so far say of all limits, the worst first; without the
    checks' regard for the noise floor and for damage that is rare."""
    texts = reference.views["reference"].perplexity
    try:
        measured = [_measure("deployed", text, len(texts), views, limits) for text in texts]
    except ValueError:  # not finite, or not there: its checks say so
        return "FAIL"
    return worst(
        status(estimate.low, estimate.high, scale(kind, getattr(limits, kind)))
        for text, _ in measured
        for kind, estimate in zip(Measured._fields, text, strict=True)
    )


def stopped(reference: Evaluation, views: dict[str, View], limits: Limits) -> bool:
    """Were the texts not scored to their end, since what was scored was beyond a limit?"""
    theirs = reference.views["reference"].perplexity if "reference" in reference.views else []
    windows = {text.text: len(text.windows) for text in theirs}
    scored = views["deployed"].perplexity if "deployed" in views else []
    return limits.sequential and any(
        len(text.windows) < windows.get(text.text, 0) for text in scored
    )


def checks(
    view: str,
    reference: Evaluation,
    candidate: Evaluation,
    floor: Evaluation | None,
    limits: Limits,
) -> list[Check]:
    """Four checks per text. A text that is missing, partial or not finite fails."""
    texts = reference.views["reference"].perplexity if "reference" in reference.views else []
    if {text.text for text in texts} != set(limits.texts):
        reason = (
            f"the reference has {sorted(text.text for text in texts)}, the recipe asks for"
            f" {sorted(limits.texts)}"
        )
        return [failed(Question("", view, "texts"), math.nan, "presence", reason)]
    return [
        check for text in texts for check in _text(view, text, len(texts), candidate, floor, limits)
    ]


def _text(
    view: str,
    reference: Perplexity,
    texts: int,
    candidate: Evaluation,
    floor: Evaluation | None,
    limits: Limits,
) -> list[Check]:
    nothing = Question("", view, reference.text)
    try:
        measured, look = _measure(view, reference, texts, candidate.views, limits)
        noise = None
        if limits.quantized:
            if (
                floor is None
                or floor.failure is not None
                or floor.logprobs_sha256 != candidate.logprobs_sha256
            ):
                reason = (
                    "the unquantized model was not measured on this engine against the same"
                    " reference"
                )
                return [failed(nothing, math.nan, "noise floor", reason)]
            noise, _ = _measure(view, reference, texts, floor.views, limits)
    except ValueError as error:
        return [failed(nothing, math.nan, "presence of all windows and positions", str(error))]
    return [
        held_to_limit(
            Question(kind, view, reference.text),
            kind,
            getattr(measured, kind),
            getattr(noise, kind, None),
            limits,
            look,
        )
        for kind in Measured._fields
    ]


def first_look(kl_nats: list[list[float]], limits: Limits) -> tuple[Estimate, Status]:
    """Mean KL at a few windows, [windows][positions], and what it says of the limit: FAIL where
    more windows will not help."""
    sums, counts = [sum(group) for group in kl_nats], [float(len(group)) for group in kl_nats]
    estimate = statistics.ratio(sums, counts, limits.confidence)
    finite = all(map(math.isfinite, sums))
    return estimate, status(estimate.low, estimate.high, limits.mean_kl) if finite else "FAIL"


def _measure(
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


METHODS = {
    "perplexity_ratio": "paired log ratio per window, robust standard error",
    "mean_kl": "KL(reference || artifact) per position, full vocabulary, clustered by window",
    "p99_kl": "99th percentile of KL, bounds of the share below it clustered by window (Woodruff)",
    "top1_agreement": "share of positions with the same most likely token, clustered by window",
}


def scale(kind: str, limit: float) -> float:
    """The recipe's limit where 0 is the reference and more is worse."""
    if kind == "perplexity_ratio":
        return math.log(limit)
    return 1 - limit if kind == "top1_agreement" else limit


def held_to_limit(
    asked: Question,
    kind: str,
    estimate: Estimate,
    noise: Estimate | None,
    limits: Limits,
    look: Look,
) -> Check:
    """`estimate`, of one of Measured's kinds, on the scale where 0 is the reference; the record in
    the recipe's own terms."""
    bound: float = getattr(limits, kind)
    scaled = scale(kind, bound)
    outcome = status(estimate.low, estimate.high, scaled)
    value, low, high = (_terms(kind, x) for x in (estimate.value, estimate.low, estimate.high))
    low, high = min(low, high), max(low, high)
    reason = f"{_sentence(kind, value, low, high)}; {words(outcome)} the limit of {bound:g}"
    if outcome == "INCONCLUSIVE":
        reason += (
            f". About {_windows_needed(estimate, scaled)} windows would decide it;"
            f" {estimate.freedom + 1} were scored"
        )
    windows = estimate.freedom + 1
    blind = unseen(windows, limits.confidence)
    if outcome == "PASS" and limits.rare is not None and blind > limits.rare:
        outcome = "INCONCLUSIVE"
        reason += (
            f", but {windows} windows can miss damage that sits in {blind:.1%} of them, gate.rare"
            f" asks for {limits.rare:.1%}: {windows_for(limits.rare, limits.confidence)} windows"
            " would show it"
        )
    floor = abs(noise.value) if noise else 0.0
    if scaled < FLOORS * floor:
        outcome = "FAIL" if estimate.low > scaled + FLOORS * floor else "INCONCLUSIVE"
        at_least = _terms(kind, FLOORS * floor)
        reason = (
            f"not decidable: the unquantized model itself measures {_terms(kind, floor):.6g} on"
            f" this engine, and the limit of {bound:g} is closer than {FLOORS} times that noise;"
            f" measured {value:.6g}. Set the limit to {at_least:.6g} or"
            f" {'less' if kind == 'top1_agreement' else 'more'}, or serve in a higher precision"
        )
    if look.part and outcome != "FAIL":
        outcome = "INCONCLUSIVE"
        reason += (
            f". Measured up to {look.part}, where a limit was passed; a PASS takes all windows (dvc"
            " repro -f evaluate@...)"
        )
    method = f"{METHODS[kind]}, one-sided {limits.confidence:.0%}"
    if limits.sequential and look.confidence > limits.confidence:
        method += (
            f", for a FAIL {look.confidence:.6g}{look.part and f' at {look.part}'} (Lan-DeMets,"
            " O'Brien-Fleming)"
        )
    method += f"; may miss damage in fewer than {blind:.1%} of the windows"
    return Check(
        **asked._asdict(),
        status=outcome,
        value=value,
        low=low,
        high=high,
        limit=bound,
        n=windows,
        method=method,
        reason=reason,
    )


def _terms(kind: str, x: float) -> float:
    if kind == "perplexity_ratio":
        return math.exp(x) if x < 700 else math.inf
    return 1 - x if kind == "top1_agreement" else x


def _sentence(kind: str, value: float, low: float, high: float) -> str:
    interval = f"({low:.6g} to {high:.6g})"
    return {
        "perplexity_ratio": f"perplexity is {value:.6g} times the reference's {interval}",
        "mean_kl": f"mean KL is {value:.4g} nats per token {interval}",
        "p99_kl": f"KL is below {value:.4g} nats at 99 % of the positions {interval}",
        "top1_agreement": (
            f"the most likely token is the reference's at {value:.2%} of the positions {interval}"
        ),
    }[kind]


def _windows_needed(estimate: Estimate, limit: float) -> str:
    """The error shrinks with the square root of the number of windows."""
    reach, distance = estimate.high - estimate.value, abs(limit - estimate.value)
    if not math.isfinite(reach) or distance == 0:
        return "many more"
    return str(math.ceil((estimate.freedom + 1) * (reach / distance) ** 2))


def tails(candidate: Evaluation) -> list[Tails]:
    """Quantiles of the change of the true token's probability, per view and text."""
    rows = []
    for name, view in candidate.views.items():
        for divergence in view.divergence:
            changes = np.array(
                [x for window in divergence.windows for x in window.probability_change]
            )
            if not len(changes) or not np.isfinite(changes).all():
                continue  # its checks say so
            quantiles = {str(level): float(np.quantile(changes, level)) for level in TAILS}
            rows.append(Tails(view=name, text=divergence.text, quantiles=quantiles))
    return rows
