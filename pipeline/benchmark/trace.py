"""The requests that every engine replays: seeded prompts of token ids, exact output lengths and
Poisson arrivals.

Runs in a tool environment, since prompts of their natural length need the checkpoint's tokenizer.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import random
from pathlib import Path
from typing import Any

from pipeline.errors import EvaluationError
from pipeline.recipe import Benchmark, PromptSet
from pipeline.records import Samples, Trace, TracedRequest, read
from pipeline.source.checkpoint import embedding_rows
from pipeline.source.encoding import Encoder, Refused, require_rows
from pipeline.source.prompts import documents
from pipeline.source.tokens import added


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Worker verb: returns a Trace record as JSON. Raises CalibrationError or EvaluationError."""
    plan = Benchmark.model_validate(job["benchmark"])
    samples = read(Path(job["samples"]), Samples)
    rows = (
        samples.ids
        if plan.prompts is None
        else _tokenized(Path(job["checkpoint"]), plan.prompts, job["prompt_set"])
    )
    return build(rows, plan, plan.prompts or samples.prompts).model_dump()


def _tokenized(checkpoint: Path, name: str, prompt_set: dict[str, Any]) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer, source = (
        AutoTokenizer.from_pretrained(checkpoint),
        PromptSet.model_validate(prompt_set),
    )
    encoder = Encoder(tokenizer, added(tokenizer).front, chat_template=False)
    rows = []
    for document in documents(name, source).prompts:
        with contextlib.suppress(Refused):  # a dialogue that the chat template does not take
            rows.append(encoder.ids(document, encoder.text(document)))
    require_rows(name, rows, embedding_rows(checkpoint))
    return rows


def build(rows: list[list[int]], plan: Benchmark, prompts: str) -> Trace:
    """`plan.requests` distinct prompts. Raises EvaluationError if the ids do not give as many."""
    rng = random.Random(plan.seed)
    chosen = _natural(rng, rows, plan) if plan.lengths == "natural" else _fixed(rng, rows, plan)
    arrivals = itertools.accumulate(rng.expovariate(1.0) for _ in chosen)
    requests = [
        TracedRequest(arrival=arrival, prompt=prompt, output_tokens=plan.output_tokens)
        for arrival, prompt in zip(arrivals, chosen, strict=True)
    ]
    digest = hashlib.sha256(
        json.dumps([request.model_dump() for request in requests]).encode()
    ).hexdigest()
    return Trace(prompts=prompts, seed=plan.seed, sha256=digest, requests=requests)


def _fixed(rng: random.Random, rows: list[list[int]], plan: Benchmark) -> list[list[int]]:
    stream = [token for row in rows for token in row]
    places = range(len(stream) - plan.prompt_tokens + 1)
    if len(places) < plan.requests:
        raise EvaluationError(
            f"benchmark.requests: {plan.requests} prompts of {plan.prompt_tokens} tokens need more"
            f" than the {len(stream)} ids that the prompts give. Use fewer requests, shorter"
            " prompts or another prompt set."
        )
    return [
        stream[start : start + plan.prompt_tokens] for start in rng.sample(places, plan.requests)
    ]


def _natural(rng: random.Random, rows: list[list[int]], plan: Benchmark) -> list[list[int]]:
    cut = list({tuple(row[: plan.prompt_tokens]): None for row in rows if row})
    if len(cut) < plan.requests:
        raise EvaluationError(
            f"benchmark.requests: found {plan.requests}, the prompt set {plan.prompts!r} has"
            f" {len(cut)} different prompts. Use fewer requests or another prompt set."
        )
    return [list(prompt) for prompt in rng.sample(cut, plan.requests)]
