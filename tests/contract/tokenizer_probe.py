"""Runs inside the openvino environment: what the load check says of a tokenizer, for each folder.

python -m tests.contract.tokenizer_probe SOURCE OUT.json FOLDER ...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline.errors import ArtifactError
from pipeline.evaluation import loadcheck


def said(folder: Path, source: Path) -> list[str]:
    try:
        return loadcheck.check_tokenizer(folder, source, "vllm")
    except ArtifactError as error:
        return [f"refused: {error}"]


if __name__ == "__main__":
    given, out, *folders = map(Path, sys.argv[1:])
    out.write_text(json.dumps({folder.name: said(folder, given) for folder in folders}))
