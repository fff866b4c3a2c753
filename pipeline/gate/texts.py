"""Checks on the evaluation texts, per view: perplexity, and divergence of the next-token
distributions."""

from __future__ import annotations

import math

import numpy as np

from pipeline.gate import statistics, text_windows
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
from pipeline.gate.text_windows import Look, Measured
from pipeline.records import (
    Check,
    Evaluation,
    Perplexity,
    Question,
    Status,
    Tails,
    View,
)

TAILS = (0.001, 0.01, 0.05, 0.5, 0.95, 0.99, 0.999)


def beyond(reference: Evaluation, views: dict[str, View], limits: Limits) -> bool:
    """Is a text beyond a limit as served, at the windows that were scored so far? More of them
    would only confirm it."""
    return as_served(reference, views, limits) == "FAIL"


def as_served(reference: Evaluation, views: dict[str, View], limits: Limits) -> Status:
    """What the windows that were scored so far say of all limits, the worst first; without the
    checks' regard for the noise floor and for damage that is rare."""
    texts = reference.views["reference"].perplexity
    try:
        measured = [
            text_windows.measure("deployed", text, len(texts), views, limits) for text in texts
        ]
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
        measured, look = text_windows.measure(view, reference, texts, candidate.views, limits)
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
            noise, _ = text_windows.measure(view, reference, texts, floor.views, limits)
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
