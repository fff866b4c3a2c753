"""What the report says of a recipe: everything that is known of each variant, joined, and the
variants side by side."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from pipeline.records.base import Record
from pipeline.records.judged import Check, Verdict
from pipeline.records.made import Checkpoint, Manifest, Samples
from pipeline.records.measured import WorstToken
from pipeline.records.timed import Benchmark, Level, Performance


class Accuracy(Record):
    """Of one task; the standard error is that of a mean over independent items, NaN below two."""

    accuracy: float
    standard_error: float
    n: int


class Scored(Record):
    """Perplexity per token and bits per byte of each whole text as served, and the accuracy of each
    task."""

    perplexity: dict[str, float]
    bits_per_byte: dict[str, float]
    tasks: dict[str, Accuracy]


class Scoring(Record):
    """Under what an artifact was scored; `settings` by view. `notes` are what the load check found
    strange."""

    settings: dict[str, dict[str, Any]]
    versions: dict[str, str]
    wall_s: float
    notes: list[str] = Field(default=[])


class ScoredReference(Scored, Scoring):
    """The source checkpoint in float32."""


class CalibrationSet(Samples):
    """Without its token ids; `rows` is how many samples they are."""

    ids: list[list[int]] = Field(default=[], exclude=True)
    rows: int


class Distribution(Record):
    """Quantiles of KL(reference, artifact) over the positions of a text, by level, and the largest;
    nats."""

    positions: int
    quantiles: dict[str, float]
    largest: float | None


class Flip(Record):
    """An item whose answer changed, with the question and right answer that the reference's
    evaluation kept."""

    task: str
    doc_id: str
    lost: bool
    text: str


class WorstPlace(WorstToken):
    text: str


class Speedup(Record):
    """Output tokens/s over those of the unquantized model on the same engine: the geometric mean
    over rounds of the ratio within a round, with Student's 95 % interval, which a single round does
    not have."""

    ratio: float
    low: float | None = None
    high: float | None = None


class VariantSummary(Scored):
    """`size_ratio` and `speedup` (by concurrency) are over the unquantized model on the same
    engine; `http` is the benchmark over HTTP, if one was made."""

    engine: str
    quantizer: str | None
    answered_by: str
    weights: str
    size_bytes: int
    size_ratio: float | None
    speedup: dict[str, Speedup]
    verdict: Verdict
    performance: Performance
    benchmark: Benchmark
    http: Benchmark | None = None
    manifest: Manifest
    evaluation: Scoring
    kl_distribution: dict[str, Distribution] = Field(default={})
    flipped: list[Flip] = Field(default=[])
    worst_tokens: list[WorstPlace] = Field(default=[])

    @property
    def passed(self) -> bool:
        return self.verdict.status == "PASS"

    @property
    def remarks(self) -> list[str]:
        """What the quantizer and the comparison of weights found worth a reviewer's eye."""
        return [*self.manifest.notes, *self.evaluation.notes]

    def levels(
        self, profile: str = "deployed", loop: str = "closed", http: bool = False
    ) -> list[Level]:
        """The loads of one kind that were measured, the lightest first."""
        timed = self.http if http else self.benchmark
        measured = timed.profiles[profile].levels if timed and profile in timed.profiles else []
        return sorted(
            (level for level in measured if level.loop == loop),
            key=lambda level: level.concurrency or level.fraction or 0,
        )

    def worst(self, kind: str, view: str = "") -> Check | None:
        """Of several texts, the check with the largest value that is a number; None where there is
        none."""
        checks = [
            check for check in self.verdict.checks if (check.kind, check.view) == (kind, view)
        ]
        return max(
            (check for check in checks if math.isfinite(check.value)),
            key=lambda check: check.value,
            default=None,
        )

    @property
    def mean_kl(self) -> Check | None:
        """As served."""
        return self.worst("mean_kl", "deployed")


class Metric(Record):
    key: str
    title: str
    unit: str
    better: Literal["higher", "lower"]


class Value(Record):
    """`busy`: other processes took the machine's time while it was measured."""

    median: float
    low: float | None = None
    high: float | None = None
    busy: bool = False


class ComparedRow(Record):
    """`quality` are the worst of the texts: perplexity ratio, mean KL (nats), accuracy drop.
    `values` are by metric."""

    variant: str
    engine: str
    weights: str
    verdict: str
    performance: str
    quality: dict[str, float | None]
    values: dict[str, Value | None]


class SideBySide(Record):
    """Variants compared in each metric. `leaders` are those that cannot be told apart at the top:
    the winner alone, or a tie.

    `ties` says in a few words why there is no winner; `reasons` say it, or why there is one, with
    the figures."""

    title: str
    note: str
    metrics: list[Metric]
    rows: list[ComparedRow]
    winners: dict[str, str | None]
    leaders: dict[str, list[str]] = Field(default={})
    ties: dict[str, str]
    reasons: dict[str, str]


class Advice(Record):
    """Which variant to take for a goal; `tied` are those that cannot be told from it in that."""

    goal: str
    variant: str | None
    tied: list[str] = Field(default=[])
    reason: str


class Ship(Record):
    """The report in one sentence, and a few more that say what it rests on. `variant` is None where
    nothing may be shipped."""

    variant: str | None
    headline: str
    facts: list[str]
    busy: bool = False


class Comparison(Record):
    """`concurrency` is the lowest, at which latency is compared. `recommendations` are among
    quantized variants, `baselines` among the unquantized ones, which the quantized are measured
    against."""

    concurrency: int | None
    sections: list[SideBySide]
    recommendations: list[Advice] = Field(default=[])
    baselines: list[Advice] = Field(default=[])
    ship: Ship | None = None


class Summary(Record):
    """Of a recipe or an audit: what artifacts/reports/RECIPE.json holds, and all that its other
    forms are rendered from."""

    recipe: str
    goal: str
    checkpoint: Checkpoint
    calibration: CalibrationSet
    limits: dict[str, Any]
    reference: ScoredReference
    variants: dict[str, VariantSummary]
    comparison: Comparison

    @property
    def concurrency(self) -> int | None:
        """The highest that every variant was timed at that was timed at all."""
        timed = [
            {level.concurrency for level in measured}
            for row in self.variants.values()
            if (measured := row.levels())
        ]
        return (
            max((at for at in set.intersection(*timed) if at is not None), default=None)
            if timed
            else None
        )
