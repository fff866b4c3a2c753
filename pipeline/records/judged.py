"""What was concluded: verdicts with their checks."""

from __future__ import annotations

from typing import Literal

from pipeline.records.base import Record

Status = Literal["PASS", "FAIL", "INCONCLUSIVE"]


class Check(Record):
    """One question of the gate: measured value, its interval, the limit, and the reason in a sentence."""

    name: str
    status: Status
    value: float
    low: float
    high: float
    limit: float
    n: int
    method: str
    reason: str


class TaskComparison(Record):
    """One task beside the reference. `recovery` is chance-corrected: (accuracy - chance) / (reference - chance).

    `mcnemar_p` is exact and two-sided. `lost` and `won` name the items (task/document) that changed.
    """

    name: str
    n: int
    reference_accuracy: float
    accuracy: float
    recovery: float
    mcnemar_p: float
    lost: list[str]
    won: list[str]
    length_ratio: float | None


class Tails(Record):
    """Quantiles of the change of the true token's probability, by level."""

    view: str
    text: str
    quantiles: dict[str, float]


class Verdict(Record):
    recipe: str
    variant: str
    status: Status
    checks: list[Check]
    tasks: list[TaskComparison]
    tails: list[Tails]
    reference_sha256: str
    candidate_sha256: str
