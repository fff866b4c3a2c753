"""What the steps write and read: one frozen record per file, JSON, units in the names.

`write` replaces the file in one move, so that a killed run leaves the old record or the new one, never half of one.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import paths
from pipeline.errors import ArtifactError

Status = Literal["PASS", "FAIL", "INCONCLUSIVE"]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True, ser_json_inf_nan="constants")

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")


R = TypeVar("R", bound=Record)


def read(path: Path, record: type[R]) -> R:
    """Raises ArtifactError if the file is missing or is not that record."""
    try:
        return record.model_validate_json(read_text(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtifactError(f"{path}: not a {record.__name__} record: {first['loc']}: {first['msg']}") from error


def read_text(path: Path) -> str:
    """Raises ArtifactError if the file is missing."""
    try:
        return path.read_text()
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: missing: the stage that writes it has not run. Run: {paths.producer(path)}") from error


def write_text(path: Path, text: str) -> None:
    """Replaces the file in one move. The temporary one lies apart: DVC hashes the folders that hold records."""
    path.parent.mkdir(parents=True, exist_ok=True)
    paths.TEMPORARY.mkdir(parents=True, exist_ok=True)
    temporary = paths.TEMPORARY / f"{path.name}.{os.getpid()}"
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class File(Record):
    path: str
    size_bytes: int
    sha256: str


class Checkpoint(Record):
    """The pinned source: where from, and every file's size and hash."""

    repo: str | None
    revision: str | None
    path: str | None
    architecture: str
    dtype: str
    parameters: int
    files: list[File]


class Samples(Record):
    """Calibration set: `ids` is [samples, tokens] token ids; sha256 is over them and their order."""

    prompts: str
    seed: int
    prompts_used: int
    sha256: str
    overlap: float
    overlap_limit: float
    ids: list[list[int]]


class Text(Record):
    """Evaluation text: `windows` is [count, window] token ids, the same for every engine."""

    name: str
    bos: str
    characters: int
    tokens_dropped: int
    sha256: str
    windows: list[list[int]]


class Texts(Record):
    texts: list[Text]


class Layers(Record):
    """How the model's linear layers came out; `skipped` are those that the recipe's precision was not applied to."""

    expected: int
    quantized: int
    skipped: list[str]


class Manifest(Record):
    recipe: str
    variant: str
    engine: str
    device: str
    quantizer: str | None
    answered_by: str
    weights: str
    requested: dict[str, Any]
    resolved: dict[str, Any]
    notes: list[str]
    layers: Layers
    stored_types: dict[str, int]
    versions: dict[str, str]
    checkpoint_sha256: str
    samples_sha256: str | None
    files: list[File]
    wall_s: float
    peak_memory_bytes: int

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


class Window(Record):
    """Negative log-likelihood of one window: the sum over its scored tokens."""

    nll_nats: float
    tokens: int


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


class Item(Record):
    """One task item as lm-eval saw it; the hashes pair it with the same item on another engine."""

    task: str
    doc_id: int
    doc_hash: str
    prompt_hash: str
    target_hash: str
    tokens_hash: str
    score: float


class Task(Record):
    name: str
    metric: str
    documents: int
    items: list[Item]

    @property
    def mean(self) -> float:
        return sum(item.score for item in self.items) / len(self.items) if self.items else math.nan


class LoadCheck(Record):
    """What was found true of the artifact before it was measured."""

    files: int
    stored_types: dict[str, int]
    tokenizer_probes: int
    generated: list[int]


class Evaluation(Record):
    """`failure` says why nothing was measured: the artifact is damaged, or its engine cannot run it. The gate fails it."""

    recipe: str
    variant: str
    engine: str
    settings: dict[str, Any]
    versions: dict[str, str]
    artifact_sha256: str
    requested: dict[str, Any]
    failure: str | None
    load_check: LoadCheck | None
    perplexity: list[Perplexity]
    tasks: list[Task]
    wall_s: float
    peak_memory_bytes: int


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


class Verdict(Record):
    recipe: str
    variant: str
    status: Status
    checks: list[Check]
    reference_sha256: str
    candidate_sha256: str


class Spread(Record):
    """Median over requests or repeats with the range that was seen."""

    median: float
    minimum: float
    maximum: float
    n: int


class Level(Record):
    """One concurrency of the closed loop."""

    concurrency: int
    requests: int
    failed: int
    ttft_ms: Spread
    tpot_ms: Spread
    output_tokens_per_s: Spread


class Benchmark(Record):
    recipe: str
    variant: str
    engine: str
    measured: bool
    reason: str
    artifact_sha256: str | None = None
    load_s: float | None = None
    size_bytes: int | None = None
    peak_memory_bytes: int | None = None
    settings: dict[str, Any] = {}
    versions: dict[str, str] = {}
    machine: dict[str, Any] = {}
    levels: list[Level] = []
