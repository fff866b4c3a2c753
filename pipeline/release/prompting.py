"""OpenVINO GenAI on the terminal: each line of the input is a prompt, greedily continued. In OpenVINO's environment.

python -m pipeline.release.prompting '{"artifact": FOLDER, "serve": {...}}'
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from pipeline.engines.openvino import OpenVinoEngine
from pipeline.recipe import Serve

MAX_TOKENS = 128


def main(question: str) -> None:
    import openvino_genai

    asked = json.loads(question)
    artifact, serve = Path(asked["artifact"]), Serve.model_validate(asked["serve"])
    tokenizer = openvino_genai.Tokenizer(str(artifact))
    with OpenVinoEngine(artifact, serve) as engine:
        print("ready: one prompt a line", file=sys.stderr, flush=True)
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
        for line in sys.stdin:
            ids = tokenizer.encode(line.rstrip("\n")).input_ids.data[0].tolist()
            room = serve.max_model_len - len(ids)
            if room < 1:
                print(f"this prompt has {len(ids)} tokens, and there is room for {serve.max_model_len - 1}", file=sys.stderr)
            print(tokenizer.decode(_continued(engine, ids, room)), flush=True)


def _continued(engine: OpenVinoEngine, ids: list[int], room: int) -> list[int]:
    """The tokens that follow. Empty for a prompt that does not fit (`room`: tokens left of the model's length)."""
    if room < 1 or not ids:
        return []
    engine.submit(0, ids, min(MAX_TOKENS, room), stop_at_eos=True)
    tokens: list[int] = []
    while steps := engine.step():
        for step in steps:
            tokens += step.token_ids
            if step.done:
                return tokens
    return tokens


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)  # OpenVINO's threads can hang while they are torn down
