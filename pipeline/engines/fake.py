"""An engine with known scores and known delays: what the contract suite and the benchmark's own
tests measure against.

Scoring: the log-probability of token t after token s is that of a fixed table, softmax of a seeded
matrix. Decoding: every step takes `step_s` and gives each running request its next token, the
arg-max of the same table; the step with a request's first token takes `stall_s[key]` longer."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from pipeline.engines import Prompt, Sampling, Step, Visit
from pipeline.recipe import Serve

VOCABULARY = 32
EOS = 1


class FakeEngine:
    def __init__(
        self,
        artifact: Path,
        serve: Serve,
        step_s: float = 0.0,
        fail: frozenset[int] = frozenset(),
        stall_s: Mapping[int, float] = MappingProxyType({}),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        rng = random.Random(0)
        self._logits = [[rng.gauss(0, 2) for _ in range(VOCABULARY)] for _ in range(VOCABULARY)]
        self._serve, self._step_s, self._fail, self._sleep = serve, step_s, fail, sleep
        self._stall_s = dict(stall_s)
        self._running: dict[int, list[int]] = {}
        self._wanted: dict[int, Sampling] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._running.clear()

    def echo(self, ids: list[int]) -> list[float]:
        rows = [self._logits[previous] for previous in ids[:-1]]
        return [
            row[token] - math.log(sum(map(math.exp, row)))
            for row, token in zip(rows, ids[1:], strict=True)
        ]

    def distributions(self, prompts: list[Prompt], visit: Visit) -> None:
        import numpy

        table = numpy.array(self._logits)
        table = (table - numpy.log(numpy.exp(table).sum(1, keepdims=True))).astype(numpy.float32)
        for number, (ids, first) in enumerate(prompts):
            visit(number, first, table[ids[first:]])

    def submit(self, key: int, prompt: list[int], sampling: Sampling) -> None:
        sampling.require_greedy("the fake engine", tells_logprobs=True)
        self._running[key] = list(prompt)
        self._wanted[key] = sampling

    def cancel(self, key: int) -> None:
        self._running.pop(key, None)

    def step(self) -> list[Step]:
        if not self._running:
            return []
        batch = list(self._running)[: self._serve.max_num_seqs]
        self._sleep(self._step_s + sum(self._stall_s.pop(key, 0.0) for key in batch))
        return [self._advance(key) for key in batch]

    def _advance(self, key: int) -> Step:
        if key in self._fail:
            del self._running[key]
            return Step(key, [], True, "told to fail")
        row = self._logits[self._running[key][-1]]
        token = row.index(max(row))
        logprob = self.echo([self._running[key][-1], token])[0]
        self._running[key].append(token)
        wanted = self._wanted[key]
        self._wanted[key] = replace(wanted, max_tokens=wanted.max_tokens - 1)
        done = wanted.max_tokens == 1 or (token == EOS and not wanted.ignore_eos)
        if done:
            del self._running[key]
        return Step(key, [token], done, None, [logprob])

    def kv_cache_use(self) -> float:
        return min(1.0, len(self._running) / self._serve.max_num_seqs)

    def settings(self) -> dict[str, Any]:
        return {"device": "cpu", "step_s": self._step_s, "max_num_seqs": self._serve.max_num_seqs}
