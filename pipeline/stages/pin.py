"""The pin stage: fetches and checks the source checkpoint, and writes down the hash of every
file."""

from __future__ import annotations

from pipeline import paths
from pipeline.evidence import opened
from pipeline.recipe.parsing import of_file
from pipeline.source import checking, checkpoint


def run(name: str) -> None:
    model = opened.recipe(name).model
    with of_file(paths.recipe(name)):
        record = checkpoint.pin(model)
    source = checkpoint.isolate(name, checkpoint.fetch(model), record)
    tokenizer = checking.tokenizer_of(f"pin@{name}", source, model)
    record.model_copy(update={"tokenizer": tokenizer}).write(paths.checkpoint(name))
    size = sum(file.size_bytes for file in record.files)
    print(
        f"pinned {len(record.files)} files, {size / 1e6:.1f} MB, {record.parameters:,} parameters"
        f" ({record.dtype})"
    )
    if record.left_out:
        print(f"note: not the model's, left out: {', '.join(record.left_out)}")
    if tokenizer.end:
        print(
            f"note: the tokenizer ends every text with token {tokenizer.end}; contexts, calibration"
            " and texts are without it"
        )
