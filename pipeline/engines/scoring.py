"""Log-likelihoods of continuations, on any engine: what is put to the model, and what is read off
its distributions.

Put to the model is a context with all but the last token of its continuation, since nothing follows
that one. So requests that are equal, and choices of one token after the same context, are one
prompt."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pipeline.engines import Distributions, Prompt


class Request(NamedTuple):
    """Token ids, at least one of each. `greedy` asks whether the continuation is what greedy
    decoding would give."""

    context: list[int]
    continuation: list[int]
    greedy: bool = False


class Scored(NamedTuple):
    """Log-probabilities in nats of the continuation's tokens; `greedy` is None where it was not
    asked for."""

    logprobs: list[float]
    greedy: bool | None


def score(model: Distributions, requests: list[Request]) -> list[Scored]:
    """Scores every request, in the order given."""
    prompts, asking = _prompts(requests)
    logprobs: list[list[float]] = [[] for _ in requests]
    greedy = [request.greedy for request in requests]

    def visit(number: int, first: int, rows: Any) -> None:
        for index in asking[number]:
            done, begin = len(logprobs[index]), len(requests[index].context) - 1
            asked = rows[max(0, begin - first) :]
            targets = requests[index].continuation[done : done + len(asked)]
            given = asked[np.arange(len(targets)), targets]
            logprobs[index] += given.tolist()
            greedy[index] = greedy[index] and bool((given >= asked.max(-1)).all())

    model.distributions(prompts, visit)
    return [
        Scored(values, flag if request.greedy else None)
        for request, values, flag in zip(requests, logprobs, greedy, strict=True)
    ]


def _prompts(requests: list[Request]) -> tuple[list[Prompt], list[list[int]]]:
    """The different prompts, and the numbers of the requests that each of them answers."""
    answers: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        answers.setdefault((*request.context, *request.continuation[:-1]), []).append(index)
    asking = list(answers.values())
    firsts = [min(len(requests[index].context) for index in indices) - 1 for indices in asking]
    return [Prompt(list(ids), first) for ids, first in zip(answers, firsts, strict=True)], asking


def families(prompts: list[Prompt]) -> list[list[int]]:
    """Numbers of the prompts in families, whose members share at least half of their tokens with
    the first of them."""
    groups: list[list[int]] = []
    for number in sorted(range(len(prompts)), key=lambda number: prompts[number].ids):
        ids = prompts[number].ids
        if groups and 2 * common(prompts[groups[-1][0]].ids, ids) >= len(ids):
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def common(one: list[int], other: list[int]) -> int:
    """How many tokens two prompts begin with alike."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
