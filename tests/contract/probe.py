"""Runs inside a tool environment: puts one engine through the contract's motions and writes what
came out as JSON.

python -m tests.contract.probe ENGINE ARTIFACT OUT.json python -m tests.contract.probe weights
ENGINE ARTIFACT PRECISION OUT.json (relative error of each weight, or refused) python -m
tests.contract.probe cache ENGINE ARTIFACT PRECISION OUT.json (scores and settings with such a KV
cache) python -m tests.contract.probe torch SOURCE OUT.json (log-probabilities straight from
transformers) python -m tests.contract.probe continue ARTIFACT PROMPT OUT.json (GenAI's own
continuation)"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy

from pipeline import engines, quantizers
from pipeline.engines.scoring import Request, score
from pipeline.formats import fidelity
from pipeline.recipe import Serve, Variant

SERVE = Serve(
    max_model_len=256, max_num_seqs=8, max_num_batched_tokens=256, kv_cache_gib=1, eager=True
)
SOURCE = Path("recipes/tiny/checkpoint")
LOWEST, HIGHEST = 2, 31  # ids that every vocabulary here has, the special ones left out


def sequences() -> list[list[int]]:
    """Lengths below, at and above the scheduler's token budget, one of them twice."""
    rng = random.Random(0)
    made = [
        [rng.randint(LOWEST, HIGHEST) for _ in range(length)]
        for length in (2, 3, 17, 64, 129, 255, 40)
    ]
    return [*made, made[3]]


def choices() -> list[Request]:
    """What tasks ask: choices of one and of several tokens after shared contexts, equal ones, and
    one that begins another."""
    rng = random.Random(1)
    drawn = lambda length: [rng.randint(LOWEST, HIGHEST) for _ in range(length)]  # noqa: E731
    shots = drawn(70)
    contexts = [drawn(1), drawn(33), drawn(90), *(shots + drawn(20) for _ in range(6))]
    made = [
        Request(context, drawn(length), True) for context in contexts for length in (1, 1, 1, 4, 9)
    ]
    longer = made[-1]
    made.append(Request(longer.context, longer.continuation[:3], True))
    made.append(Request(longer.context + longer.continuation[:2], longer.continuation[2:]))
    return [*made, made[0], Request(drawn(200), drawn(40))]


def probe(engine: engines.Engine) -> dict[str, Any]:
    rows = sequences()
    distributions, worst_sum = gathered(engine, rows)
    together = score(engine, choices())
    alone = [score(engine, [request])[0] for request in choices()]
    decoded = engines.generate(engine, rows[:5], [1, 2, 7, 7, 3], stop_at_eos=False)
    again = score(engine, choices()[:1])
    return {
        "distributions": distributions,
        "worst_sum": worst_sum,
        "scores": [engine.echo(ids) for ids in rows],
        "choices": together,
        "alone": alone,
        "after_decoding": again[0].logprobs,
        "decoded": decoded,
        "idle": len(engine.step()),
        "settings": engine.settings(),
    }


def gathered(
    model: engines.Distributions, rows: list[list[int]]
) -> tuple[list[list[float]], float]:
    """The true tokens' log-probabilities out of the distributions, and how far a distribution's sum
    is from 1 at most."""
    found: list[list[float]] = [[] for _ in rows]
    apart = [0.0]

    def visit(number: int, first: int, logprobs: Any) -> None:
        assert first == len(found[number])  # pieces come in order and leave no gap
        targets = rows[number][first + 1 : first + 1 + len(logprobs)]
        found[number] += logprobs[range(len(targets)), targets].tolist()
        apart.append(float(abs(numpy.exp(logprobs.astype(numpy.float64)).sum(-1) - 1).max()))

    model.distributions([engines.Prompt(row) for row in rows], visit)
    return found, max(apart)


def torch_scores(source: Path) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    scores, best = [], []
    for row in sequences():
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor([row])).logits[0].double(), -1)
        scores.append([logprobs[i, token].item() for i, token in enumerate(row[1:])])
        best.append(logprobs.argmax(-1).tolist())
    return {
        "scores": scores,
        "best": best,
        "choices": [_alone(model, request) for request in choices()],
    }


def _alone(model: Any, request: Request) -> Any:
    """A request by itself, in float64 from the logits on."""
    import torch

    ids, length = request.context + request.continuation, len(request.continuation)
    with torch.no_grad():
        logprobs = torch.log_softmax(
            model(torch.tensor([ids])).logits[0, -length - 1 : -1].double(), -1
        )
    values = [logprobs[i, token].item() for i, token in enumerate(request.continuation)]
    return values, logprobs.argmax(-1).tolist() == request.continuation


def continued(artifact: Path, prompt: str) -> dict[str, Any]:
    """Twelve tokens of OpenVINO GenAI, its own tokenizer and its own scores of them."""
    import openvino_genai

    tokenizer = openvino_genai.Tokenizer(str(artifact))
    ids = tokenizer.encode(prompt).input_ids.data[0].tolist()
    with engines.open_serving("openvino", artifact, SERVE) as engine:
        tokens = engines.generate(engine, [ids], [12], stop_at_eos=True)[0]
        logprobs = engine.echo(ids + tokens)[len(ids) - 1 :]
    text = tokenizer.decode(ids + tokens)[len(tokenizer.decode(ids)) :]
    return {"text": text, "prompt_tokens": len(ids), "logprobs": logprobs}


def main(name: str, *given: str) -> None:
    *asked, out = given
    artifact = asked[1] if name in {"weights", "cache"} else asked[0]
    if name == "torch":
        found = torch_scores(Path(artifact))
    elif name == "weights":
        variant = Variant.model_validate_json(asked[2])
        claim = fidelity.Claim(variant.weights, quantizers.simulated(variant))
        found = fidelity.check(Path(artifact), SOURCE, asked[0], claim).relative_error
    elif name == "cache":
        with engines.open_engine(
            asked[0], Path(artifact), SERVE.model_copy(update={"kv_cache": asked[2]})
        ) as engine:
            distributions, _ = gathered(engine, sequences())
            found = {"scores": distributions, "settings": engine.settings()}
    elif name == "continue":
        found = continued(Path(artifact), asked[1])
    else:
        with engines.open_engine(name, Path(artifact), SERVE) as engine:
            found = probe(engine)
        with engines.open_weights(name, Path(artifact), SERVE) as model:
            found["weights"], _ = gathered(model, sequences())
    Path(out).write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # as the worker does: native threads of an engine may hang at exit


if __name__ == "__main__":
    main(*sys.argv[1:])
