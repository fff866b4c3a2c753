"""The original on vLLM: the source checkpoint's files, copied, as each engine's noise floor and speed baseline."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.checkpoint import WANTED
from pipeline.quantizers import Outcome
from pipeline.recipe import Variant
from pipeline.records import Samples

# What travels with any artifact, as the source has it: tools rewrite these files and change defaults in them.
COMPANIONS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "*.jinja",
              "generation_config.json")  # fmt: skip


def quantize(variant: Variant, source: Path, samples: Samples, out: Path) -> Outcome:
    for path in {path for pattern in WANTED for path in source.glob(pattern)}:
        shutil.copyfile(path, out / path.name)
    return Outcome({"weights": "as in the source"})


def copy_companions(source: Path, out: Path) -> None:
    """Replaces tokenizer, chat template and generation settings in `out` by the source's own files."""
    for path in {path for pattern in COMPANIONS for path in source.glob(pattern)}:
        shutil.copyfile(path, out / path.name)
