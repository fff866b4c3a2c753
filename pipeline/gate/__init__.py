"""The gate: evaluations and limits -> verdict. Pure: reads no file, no clock, no chance that is not
seeded.

Every check but the guard-rail per task is a one-sided non-inferiority test at the recipe's
confidence. PASS: the bound on the harmful side lies within the limit. FAIL: even the bound on the
harmless side is beyond it. INCONCLUSIVE: the data cannot tell; that is not a PASS. All checks must
pass (an intersection-union test: Berger 1982), so their number makes no false PASS likelier.
Whatever is missing, partial, unpaired or not finite FAILS."""

from __future__ import annotations

import math

from pipeline.gate import items, limits, long_context, looks, pairing, texts
from pipeline.gate.limits import Limits, failed, not_measured, worst
from pipeline.records import VIEWS, Evaluation, Question, Verdict

__all__ = ["Limits", "decide", "items", "limits", "texts"]


def decide(
    reference: Evaluation, candidate: Evaluation, floor: Evaluation | None, held_to: Limits
) -> Verdict:
    """Compares paired measurements of the same texts, windows and items.

    `floor` is the evaluation of the unquantized model on the candidate's engine; None if the
    candidate is that itself."""
    comparisons, tails, seen = [], [], []
    if candidate.failure is not None:
        checks = [
            failed(
                Question("load"),
                math.nan,
                "load check and evaluation on the engine",
                candidate.failure,
            )
        ]
    elif candidate.lacking is not None:
        checks = [not_measured(Question("load"), "evaluation on the engine", candidate.lacking)]
    elif candidate.load_check is None:
        checks = [failed(Question("load"), math.nan, "load check", "its outcome is not recorded")]
    elif candidate.logprobs_sha256 != reference.logprobs_sha256:
        checks = [
            failed(
                Question("reference"),
                math.nan,
                "hash of the stored distributions",
                "measured against another reference",
            )
        ]
    else:
        stopped = texts.stopped(reference, candidate.views, held_to)
        views = VIEWS[:1] if stopped else VIEWS
        checks = [
            check
            for view in views
            for check in texts.checks(view, reference, candidate, floor, held_to)
        ]
        if not stopped:
            checks += long_context.checks(reference, candidate, floor, held_to)
            checks += items.checks(reference, candidate, held_to)
        comparisons = pairing.compare(reference, candidate)
        tails = texts.tails(candidate)
        seen = looks.at(reference, candidate, held_to)
        checks = [looks.explained(check, seen) for check in checks]
    return Verdict(
        recipe=candidate.recipe,
        variant=candidate.variant,
        status=worst(check.status for check in checks),
        checks=checks,
        tasks=comparisons,
        tails=tails,
        looks=seen,
        reference_sha256=reference.artifact_sha256,
        candidate_sha256=candidate.artifact_sha256,
    )
