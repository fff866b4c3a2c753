"""What travels between the machine that spreads a recipe's stages and those that run them: JSON,
and nothing else of ours."""

from __future__ import annotations

from typing import Literal

from pipeline.errors import DiskFull, NoMemory, QuantgateError
from pipeline.records.base import Record
from pipeline.records.made import File, Revision

Lack = Literal["disk", "memory"]
LACKS: dict[type[QuantgateError] | type[None], Lack] = {DiskFull: "disk", NoMemory: "memory"}


class Order(Record):
    """A stage to run elsewhere: `files` are the project's and what earlier stages made, by their
    hashes, to be had from the `store`; `key` is what the result must be stored under.
    `environments` are those that it needs; `device` is QUANTGATE_DEVICE."""

    stage: str
    command: str
    key: str
    store: str
    files: list[File]
    revision: Revision
    environments: list[str]
    device: str


class Needs(Record):
    """What a node must have for a job. `exclusive`: all of it, nothing beside it. `named`: Ray's
    custom resources, such as the engine."""

    memory_bytes: int
    gpus: int
    named: list[str]
    exclusive: bool


class Outcome(Record):
    """How an order ended: `error` is the stage's own line, None where its result is stored;
    `lacks` is what that node has too little of, and another may have."""

    stage: str
    node: str
    error: str | None
    lacks: Lack | None = None
    wall_s: float

    @classmethod
    def of(cls, stage: str, node: str, error: QuantgateError | None, wall_s: float) -> Outcome:
        said = None if error is None else str(error)
        lacks = LACKS.get(type(error))
        return cls(stage=stage, node=node, error=said, lacks=lacks, wall_s=wall_s)
