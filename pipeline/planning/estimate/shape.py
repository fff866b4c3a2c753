"""The sizes of a model that its costs depend on, from its config.json or, where that is not here,
from its parameters alone."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import paths
from pipeline.errors import CheckpointError
from pipeline.recipe import Recipe
from pipeline.records import Checkpoint, read
from pipeline.source import checkpoint, files

USUAL_VOCABULARY = 128_256
USUAL_ASPECT = 128  # hidden size over layers, of large models
BLOCK_MATRICES = 12  # of hidden x hidden, in a decoder block: 4 of attention, 8 of the MLP
EXPERTS = ("moe", "mixtral")


class Shape(NamedTuple):
    """`embedding`: values of the embedding matrix, and of the output projection whether it is
    stored or tied to it."""

    parameters: int
    embedding: int
    tied: bool
    vocabulary: int
    has_experts: bool

    @property
    def blocks(self) -> int:
        """Parameters of the decoder blocks: what every token is multiplied with."""
        return max(0, self.parameters - self.embedding * (1 if self.tied else 2))


UNKNOWN = Shape(0, 0, True, USUAL_VOCABULARY, False)


def of(recipe: Recipe) -> Shape | None:
    """None if nothing tells how large the model is."""
    parameters = _parameters(recipe)
    if parameters is None:
        return None
    config = _config(recipe)
    experts = any(word in " ".join(config.get("architectures") or []).lower() for word in EXPERTS)
    vocabulary = int(config.get("vocab_size") or USUAL_VOCABULARY)
    hidden = config.get("hidden_size") or round(
        (parameters * USUAL_ASPECT / BLOCK_MATRICES) ** (1 / 3)
    )
    tied = bool(config.get("tie_word_embeddings", False))
    return Shape(parameters, vocabulary * int(hidden), tied, vocabulary, experts)


def _config(recipe: Recipe) -> dict[str, Any]:
    """Of a checkpoint that lies here, or that was pinned; empty if there is none."""
    for folder in (paths.source(recipe.name), Path(recipe.model.path or "")):
        if (folder / "config.json").is_file():
            return files.config(folder)
    return {}


def _parameters(recipe: Recipe) -> int | None:
    if paths.checkpoint(recipe.name).is_file():
        return read(paths.checkpoint(recipe.name), Checkpoint).parameters
    if recipe.model.path is None:
        return recipe.model.parameters
    try:
        tensors = checkpoint.source_tensors(checkpoint.fetch(recipe.model))
    except CheckpointError:
        return recipe.model.parameters
    return sum(prod(tensor.shape) for tensor in tensors.values())
