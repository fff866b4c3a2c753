"""What was concluded: verdicts with their checks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.records.base import Record, Sealed

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


class Look(Record):
    """The pooled accuracy at one look at the items drawn so far.

    `error` is what the look alone may be wrong with, `spent` what all looks up to it may; `pass_power` and `fail_power` the
    probabilities that the last look passes or fails if it goes on like this.
    """

    items: int
    spent: float
    error: float
    status: Status
    value: float
    low: float
    high: float
    pass_power: float
    fail_power: float
    futile: bool


class Verdict(Sealed):
    recipe: str
    variant: str
    status: Status
    checks: list[Check]
    tasks: list[TaskComparison]
    tails: list[Tails]
    looks: list[Look] = Field(default=[])
    reference_sha256: str
    candidate_sha256: str
