"""Checks on divergence at long context, as deployed: mean KL of each span of positions, held to the
limit of the short windows."""

from __future__ import annotations

import math
from dataclasses import replace

from pipeline.gate import statistics
from pipeline.gate.limits import Limits, failed
from pipeline.gate.statistics import Estimate
from pipeline.gate.text_windows import Look, require_possible
from pipeline.gate.texts import held_to_limit
from pipeline.records import Check, Divergence, Evaluation, Perplexity, Question

KIND = "long_context_kl"


def checks(
    reference: Evaluation, candidate: Evaluation, floor: Evaluation | None, limits: Limits
) -> list[Check]:
    """One for each text and span, if the recipe asks for them. A text that is missing, partial or
    not finite fails."""
    if limits.long is None:
        return []
    texts = reference.views["reference"].perplexity if "reference" in reference.views else []
    return [check for text in texts for check in _text(text, candidate, floor, limits)]


def _text(
    text: Perplexity, candidate: Evaluation, floor: Evaluation | None, limits: Limits
) -> list[Check]:
    asked = Question(KIND, "deployed", text.text)
    try:
        measured = _spans(text, candidate, limits)
        noise: list[Estimate | None] = [None] * len(measured)
        if limits.quantized:
            noise = [] if floor is None else [*_spans(text, floor, limits)]
            if len(noise) != len(measured):
                raise ValueError("the unquantized model was not measured on this engine")
    except ValueError as error:
        return [failed(asked, math.nan, "presence of all long windows and positions", str(error))]
    # Damage that is rare among windows is what the many short ones are for.
    spans, looked = limits.long.spans if limits.long else [], Look([], [], limits.confidence, "")
    return [
        held_to_limit(
            asked._replace(of=f"{text.text} {span.start}-{span.stop - 1}"),
            "mean_kl",
            estimate,
            low,
            replace(limits, rare=None),
            looked,
        )
        for span, estimate, low in zip(spans, measured, noise, strict=True)
    ]


def _spans(text: Perplexity, evaluation: Evaluation, limits: Limits) -> list[Estimate]:
    """Mean KL of each span. Raises ValueError, with the reason, for anything that is not there in
    full or not finite."""
    long, view = limits.long, evaluation.views.get("deployed")
    divergence = (
        next((d for d in view.long_context if d.text_sha256 == text.text_sha256), None)
        if view
        else None
    )
    if long is None or divergence is None:
        raise ValueError("the text was not measured at long context")
    wanted = long.chosen(len(text.windows))
    if [window.index for window in divergence.windows] != wanted:
        raise ValueError(
            f"distributions of {len(divergence.windows)} long windows were compared, expected"
            f" {len(wanted)}"
        )
    for window in divergence.windows:
        if len(window.kl_nats) != len(long.places) or not all(
            map(math.isfinite, [*window.kl_nats, *window.probability_change])
        ):
            raise ValueError(
                "not all positions of the long windows were measured, or one is NaN or infinite"
            )
        require_possible(window, len(long.places))
    return [
        _mean(divergence, part, limits.confidence)
        for part in _parts([len(long.compared(span)) for span in long.spans])
    ]


def _parts(counts: list[int]) -> list[slice]:
    """Where each span lies among the positions that were compared."""
    return [slice(sum(counts[:number]), sum(counts[: number + 1])) for number in range(len(counts))]


def _mean(divergence: Divergence, part: slice, confidence: float) -> Estimate:
    groups = [window.kl_nats[part] for window in divergence.windows]
    return statistics.ratio(
        [sum(group) for group in groups], [float(len(group)) for group in groups], confidence
    )
