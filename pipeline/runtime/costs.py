"""Runs the worker of a stage, unless it does not fit into memory, and keeps what it took, which
`quantgate plan` shows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipeline import paths, records
from pipeline.errors import NoMemory
from pipeline.runtime import machine, process

ERROR = 2.0  # how far an estimate of memory may be off, either way
IGNORE = "QUANTGATE_IGNORE_MEMORY"


def run(
    stage: str,
    environment: str,
    verb: str,
    job: dict[str, Any],
    folder: Path,
    needs_bytes: float = 0,
    offline: bool = False,
) -> process.Finished:
    """As process.run, with a record of its cost if it came to an end. Raises as it does, and
    NoMemory."""
    require_memory(stage, needs_bytes)
    done = process.run(environment, verb, job, folder, offline)
    keep(stage, environment, done)
    return done


def keep(stage: str, environment: str, done: process.Finished) -> None:
    """Writes the record of what a stage's worker took."""
    records.StageCost(
        stage=stage,
        environment=environment,
        wall_s=done.wall_s,
        processor_s=done.processor_s,
        peak_memory_bytes=done.peak_memory_bytes,
        peak_anonymous_bytes=done.peak_anonymous_bytes,
    ).write(paths.cost(stage))


def require_memory(stage: str, needs_bytes: float) -> None:
    """Raises NoMemory for what does not fit into what is free. An estimate may be wrong: whoever
    knows better may say so, unless even half of it is more than this machine has."""
    has = machine.memory()
    if needs_bytes <= has.available:
        return
    hopeless = needs_bytes > ERROR * has.total
    if os.environ.get(IGNORE) == "1" and not hopeless:
        return
    remedy = "stop other programs" if needs_bytes <= has.total else "use a machine with more memory"
    or_so = "" if hopeless else f", or try it nonetheless with {IGNORE}=1"
    raise NoMemory(
        f"{stage}: needs about {needs_bytes / 1e9:.1f} GB of memory, {has.available / 1e9:.1f} of"
        f" {has.total / 1e9:.1f} GB are free: {remedy}{or_so}."
    )
