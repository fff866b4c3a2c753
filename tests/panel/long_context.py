"""`python -m tests.panel.long_context SOURCE ARTIFACT TEXTS.json WORK OUT.json`: KL by position of
artifacts with cut keys.

Windows of 64 tokens, and up to 256 as served: what the tiny model was trained on. Runs where torch
and openvino are."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from pipeline import engines
from pipeline.evaluation import text
from pipeline.recipe import LongContext, LongWindows, Serve
from pipeline.records import Divergence, Texts, read

LONG = LongWindows(LongContext(), short=64, length=256, bos=False)
SERVE = Serve(max_model_len=LONG.length)
KEYS_OF = {"as it is": None, "keys of 48 tokens": 48, "keys of 256 tokens": 256}


def main(source: Path, artifact: Path, texts: Path, work: Path, out: Path) -> None:
    from tests.panel.shipped_damage import (
        cut_keys,
    )  # needs openvino, which the test that reads LONG has not

    found, given = {}, read(texts, Texts)
    with engines.open_engine("reference", source, SERVE) as engine:
        text.write_long_reference(engine, given, LONG, work)
    for name, length in KEYS_OF.items():
        folder = shutil.copytree(artifact, work / name, copy_function=shutil.copyfile)
        if length:
            cut_keys(folder, length)
        found[name] = measured(folder, given, work).model_dump()
    out.write_text(json.dumps(found))


def measured(artifact: Path, texts: Texts, reference: Path) -> Divergence:
    with engines.open_engine("openvino", artifact, SERVE) as engine:
        (found,) = text.measure_long(engine, texts, LONG, reference, str)
    return found


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
