"""What the store holds of a stage."""

from __future__ import annotations

from pipeline.records.base import Record
from pipeline.records.made import File
from pipeline.records.spent import StageCost


class Machine(Record):
    """Which machine did some work: its name in the network, and what makes it fast or slow."""

    name: str
    cpu: str
    cores: int
    memory_bytes: int


class Out(Record):
    """What a stage left at a path of the project: one file, or a folder with all its files, which
    may be none. The files' paths are the project's too."""

    path: str
    is_folder: bool
    files: list[File]


class Result(Record):
    """What a stage made: `key` is a hash of all that it depends on, `wall_s` how long it took with
    all its workers, `cost` what its one worker took, where it has one.

    `machine_bound`: it says something of the machine itself, such as a speed. `sha256` is of all
    the rest."""

    stage: str
    key: str
    machine: Machine
    machine_bound: bool
    wall_s: float
    cost: StageCost | None
    outs: list[Out]
    sha256: str = ""

    @property
    def files(self) -> list[File]:
        return [file for out in self.outs for file in out.files]
