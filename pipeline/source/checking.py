"""The checkpoint against its architecture, and what its tokenizer adds: asked in a tool
environment."""

from __future__ import annotations

from pathlib import Path

from pipeline import records
from pipeline.recipe import Model
from pipeline.records import artifact
from pipeline.runtime import costs


def tokenizer_of(stage: str, source: Path, model: Model) -> records.Tokenizer:
    """Raises CheckpointError if the checkpoint is not what its architecture expects; returns what
    its tokenizer adds."""
    with artifact.stage_folder(stage) as folder:
        job = {"checkpoint": str(source), "named": model.path or model.repo}
        checked = costs.run(stage, "openvino", "check", job, folder, offline=True).value
    return records.Tokenizer.model_validate(checked["tokenizer"])
