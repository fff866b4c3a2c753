"""An engine on the terminal: each line of the input is a prompt, greedily continued. In the
engine's environment.

python -m pipeline.release.prompting '{"engine": NAME, "artifact": FOLDER, "serve": {...}}'
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline import engines
from pipeline.capabilities import ENGINES, IR
from pipeline.engines import Engine
from pipeline.errors import EvaluationError
from pipeline.recipe import Serve

Encode = Callable[[str], list[int]]
Decode = Callable[[list[int]], str]
MAX_TOKENS = 128


def main(question: str) -> None:
    asked = json.loads(question)
    artifact, serve = Path(asked["artifact"]), Serve.model_validate(asked["serve"])
    encode, decode = (
        _genai(artifact)
        if ENGINES[asked["engine"]].artifact_format == IR
        else _transformers(artifact)
    )
    with engines.open_serving(asked["engine"], artifact, serve) as engine:
        print("ready: one prompt a line", file=sys.stderr, flush=True)
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
        for line in sys.stdin:
            ids = encode(line.rstrip("\n"))
            room = serve.max_model_len - len(ids)
            if room < 1:
                print(
                    f"this prompt has {len(ids)} tokens, and there is room for"
                    f" {serve.max_model_len - 1}",
                    file=sys.stderr,
                )
            print(decode(_continued(engine, ids, room)), flush=True)


def _genai(artifact: Path) -> tuple[Encode, Decode]:
    """The tokenizer that is exported beside an OpenVINO IR."""
    import openvino_genai

    tokenizer = openvino_genai.Tokenizer(str(artifact))
    return lambda text: tokenizer.encode(text).input_ids.data[0].tolist(), tokenizer.decode


def _transformers(artifact: Path) -> tuple[Encode, Decode]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(artifact, trust_remote_code=False)
    return lambda text: tokenizer(text)["input_ids"], tokenizer.decode


def _continued(engine: Engine, ids: list[int], room: int) -> list[int]:
    """The tokens that follow. Empty for a prompt that does not fit (`room`: tokens left of the
    model's length)."""
    if room < 1 or not ids:
        return []
    try:
        return engines.generate(engine, [ids], [min(MAX_TOKENS, room)], stop_at_eos=True)[0]
    except EvaluationError as error:  # about this prompt; the next may fit
        print(error, file=sys.stderr)
        return []


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)  # OpenVINO's threads can hang while they are torn down
