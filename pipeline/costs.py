"""Runs the worker of a stage and keeps what it took, for `quantgate plan` to be held against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import paths, process, records


def run(stage: str, environment: str, verb: str, job: dict[str, Any], folder: Path, offline: bool = False) -> process.Finished:
    """As process.run, with a record of its cost if it came to an end. Raises as it does."""
    done = process.run(environment, verb, job, folder, offline)
    records.StageCost(
        stage=stage,
        environment=environment,
        wall_s=done.wall_s,
        processor_s=done.processor_s,
        peak_memory_bytes=done.peak_memory_bytes,
        peak_anonymous_bytes=done.peak_anonymous_bytes,
    ).write(paths.cost(stage))
    return done
