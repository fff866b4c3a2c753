"""What this machine can do, and what stages took on it."""

from __future__ import annotations

from pipeline.records.base import Record


class Speed(Record):
    """What was measured of a machine, all its cores together; `cpu`, `cores` and `memory_bytes` say
    which one it is.

    The rates are of matrix products in torch, of a copy in memory (bytes read and written) and of
    writing a file to disk; `others_share` of the processor time went to other programs meanwhile.
    """

    cpu: str
    cores: int
    memory_bytes: int
    float32_flops: float
    bfloat16_flops: float
    memory_bytes_per_s: float
    disk_bytes_per_s: float
    others_share: float


class StageCost(Record):
    """What one run of a stage's worker took. `processor_s` is of its process tree;
    `peak_memory_bytes` is resident, `peak_anonymous_bytes` the part of it that no file backs."""

    stage: str
    environment: str
    wall_s: float
    processor_s: float
    peak_memory_bytes: int
    peak_anonymous_bytes: int


class TaskLoad(Record):
    """What one item of a task puts to an engine, on average: tokens of its prompts, each different
    prompt whole (`tokens`) or what they share once (`shared_tokens`); `rows` that are projected
    onto the vocabulary; `generated` tokens at most."""

    tokens: float
    shared_tokens: float
    rows: float
    generated: float


class Workload(Record):
    """Windows of each evaluation text, and the load of an item of each task; what could not be
    looked at is missing."""

    windows: dict[str, int]
    tasks: dict[str, TaskLoad]
