"""The requests that every engine replays: seeded prompts of token ids and exact output lengths."""

from __future__ import annotations

import random
from typing import NamedTuple

from pipeline.errors import EvaluationError
from pipeline.recipe import Benchmark

SEED = 0


class Request(NamedTuple):
    prompt: list[int]
    output_tokens: int


def build(rows: list[list[int]], plan: Benchmark) -> list[Request]:
    """`plan.requests` distinct prompts cut from the calibration ids. Raises EvaluationError if there are too few ids."""
    stream = [token for row in rows for token in row]
    places = range(len(stream) - plan.prompt_tokens + 1)
    if len(places) < plan.requests:
        raise EvaluationError(
            f"benchmark: {plan.requests} prompts of {plan.prompt_tokens} tokens need more than the {len(stream)} "
            "calibration ids. Use fewer requests or shorter prompts."
        )
    starts = random.Random(SEED).sample(places, plan.requests)
    return [Request(stream[start : start + plan.prompt_tokens], plan.output_tokens) for start in starts]
