"""What was measured of an artifact, raw: enough to decide every verdict again."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from pipeline.records.base import Record, Sealed
from pipeline.records.made import Origin


class Window(Record):
    """Negative log-likelihood of one window: the sum over its scored tokens, and their UTF-8
    bytes."""

    index: int
    nll_nats: float
    tokens: int
    bytes: int


class Perplexity(Record):
    text: str
    text_sha256: str
    windows: list[Window]

    @property
    def tokens(self) -> int:
        return sum(window.tokens for window in self.windows)

    @property
    def value(self) -> float:
        """exp of the mean negative log-likelihood per token; NaN without tokens."""
        if not self.tokens:
            return math.nan
        mean = sum(window.nll_nats for window in self.windows) / self.tokens
        return math.exp(mean) if mean < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers, unlike perplexity per token; NaN without text."""
        count = sum(window.bytes for window in self.windows)
        return (
            sum(window.nll_nats for window in self.windows) / math.log(2) / count
            if count
            else math.nan
        )


class DivergedWindow(Record):
    """Per scored position: KL(reference || artifact), and the artifact's probability of the true
    token less the reference's.

    `same_top` counts the positions at which both have the same most likely token.
    """

    index: int
    kl_nats: list[float]
    probability_change: list[float]
    same_top: int


class WorstToken(Record):
    """A position where the two distributions lie far apart, readable for people."""

    window: int
    position: int
    kl_nats: float
    context: str
    token: str
    reference_probability: float
    probability: float
    reference_top: str
    top: str


class Divergence(Record):
    text: str
    text_sha256: str
    windows: list[DivergedWindow]
    worst: list[WorstToken]


class Glance(Record):
    """Divergence at a few windows of each text, as deployed: what a rung is first judged by. KL in
    nats, [windows][positions]."""

    kl_nats: dict[str, list[list[float]]]


class View(Record):
    """One way to run an artifact: `deployed`, as it serves, or `weights`, in float32. The
    reference's is `reference`.

    `long_context` is divergence too, at positions spread over windows as long as the engine takes;
    of `deployed` alone."""

    settings: dict[str, Any]
    perplexity: list[Perplexity]
    divergence: list[Divergence]
    long_context: list[Divergence] = Field(default=[])


class Item(Record):
    """One task item as lm-eval saw it; the hashes pair it with the same item on another engine.

    `place` counts from 0 in the order of the draw. Items of one `cluster` share a passage or
    subject. `chance` is what guessing scores. `text` is the question and the right answer for
    people, kept by the reference alone; cut where long."""

    task: str
    doc_id: int
    place: int
    cluster: str
    chance: float
    generated_tokens: int | None
    doc_hash: str
    prompt_hash: str
    target_hash: str
    tokens_hash: str
    score: float
    text: str = ""


class Task(Record):
    """`filter` is the one of the task's that read the answers; `code` the SHA-256 of local Python
    files that the task may run."""

    name: str
    metric: str
    filter: str = Field(default="none")
    code: dict[str, str] = Field(default={})
    documents: int
    items: list[Item]

    @property
    def mean(self) -> float:
        return sum(item.score for item in self.items) / len(self.items) if self.items else math.nan


def joined(tasks: list[Task], more: list[Task]) -> list[Task]:
    """Each task with the items of both, the first ones first."""
    by_name = {task.name: task for task in tasks}
    for task in more:
        before = by_name.get(task.name)
        by_name[task.name] = (
            task
            if before is None
            else task.model_copy(update={"items": [*before.items, *task.items]})
        )
    return list(by_name.values())


class LoadCheck(Record):
    """What was found true of the artifact before it was measured; `relative_error` of each matrix
    to the source's. `notes` name what is strange about its weights without proving damage."""

    files: int
    stored_types: dict[str, int]
    relative_error: dict[str, float]
    notes: list[str] = Field(default=[])
    tokenizer_probes: int
    generated: list[int]


class Evaluation(Sealed):
    """`failure` says why nothing was measured: the artifact is damaged, or its engine cannot run
    it. The gate fails it. `lacking`: this machine cannot run it, which says nothing of the
    artifact.

    `logprobs_sha256` is of the reference's stored distributions: those it wrote, or those an
    artifact was compared with."""

    recipe: str
    variant: str
    engine: str
    versions: dict[str, str]
    artifact_sha256: str
    requested: dict[str, Any]
    failure: str | None
    lacking: str | None = None
    load_check: LoadCheck | None
    logprobs_sha256: str
    views: dict[str, View]
    tasks: list[Task]
    wall_s: float
    peak_memory_bytes: int
    origin: Origin


class Extension(Sealed):
    """Items drawn after an inconclusive verdict, of the same artifact and settings as the
    evaluation they add to."""

    artifact_sha256: str
    requested: dict[str, Any]
    versions: dict[str, str]
    tasks: list[Task]
    wall_s: float
