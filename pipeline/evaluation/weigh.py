"""How much there is to evaluate, before anything runs: what the texts and a few items of each task
put to an engine. Worker side.

The items go the way that they go at evaluation, to an engine that counts instead of computing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np

from pipeline.engines import Prompt, Sampling, Step, Visit
from pipeline.engines.tree import trees
from pipeline.errors import QuantgateError
from pipeline.evaluation import tasks
from pipeline.recipe import Evaluate, PromptSet, Serve
from pipeline.records import TaskLoad, Workload
from pipeline.source import calibration, prompts
from pipeline.source.tokens import added

ITEMS = 16  # looked at of each task


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Worker verb: a Workload as JSON, of the texts and tasks whose data is here."""
    from transformers import AutoTokenizer

    evaluate, source = Evaluate.model_validate(job["evaluate"]), Path(job["checkpoint"])
    tokenizer = AutoTokenizer.from_pretrained(source)
    front, windows = added(tokenizer).front, {}
    for name, prompt_set in job["texts"].items():
        text = "\n\n".join(prompts.texts(name, PromptSet.model_validate(prompt_set)))
        windows[name] = len(
            calibration.windows(tokenizer, front, name, text, evaluate.perplexity).windows
        )
    loads = {}
    for name, wanted in evaluate.items.items():
        try:
            count = ITEMS if wanted == "all" else min(wanted, ITEMS)
            loads[name] = _load(
                name, count, len(tokenizer), source, evaluate, Serve.model_validate(job["serve"])
            )
        except (
            QuantgateError
        ):  # its data is not here, or has fewer items than that: nothing can be said of it
            continue
    return Workload(windows=windows, tasks=loads).model_dump()


def _load(
    name: str, items: int, vocabulary: int, source: Path, evaluate: Evaluate, serve: Serve
) -> TaskLoad:
    scales = _Scales(vocabulary)
    tasks.measure(
        scales, source, evaluate, serve, tasks.prepare(evaluate, serve, {name: (0, items)})
    )
    return TaskLoad(
        tokens=scales.tokens / items,
        shared_tokens=scales.shared_tokens / items,
        rows=scales.rows / items,
        generated=scales.generated / items,
    )


class _Scales:
    """An engine that counts what it is asked; every token is as likely as any other, and answers
    are as long as they may be."""

    def __init__(self, vocabulary: int) -> None:
        self._even = np.full(1, -np.log(vocabulary), np.float32)
        self._vocabulary = vocabulary
        self._queue: dict[int, int] = {}
        self.tokens = self.shared_tokens = self.rows = self.generated = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._queue.clear()

    def distributions(self, asked: list[Prompt], visit: Visit) -> None:
        self.tokens += sum(len(prompt.ids) for prompt in asked)
        self.shared_tokens += sum(len(tree.tokens) for tree in trees(asked, shared=True))
        for number, (ids, first) in enumerate(asked):
            self.rows += len(ids) - first
            visit(number, first, np.broadcast_to(self._even, (len(ids) - first, self._vocabulary)))

    def echo(self, ids: list[int]) -> list[float]:
        return [float(self._even[0])] * (len(ids) - 1)

    def submit(self, key: int, prompt: list[int], sampling: Sampling) -> None:
        self.tokens += len(prompt)
        self.shared_tokens += len(prompt)
        self.generated += sampling.max_tokens
        self._queue[key] = sampling.max_tokens

    def cancel(self, key: int) -> None:
        self._queue.pop(key, None)

    def step(self) -> list[Step]:
        finished = [Step(key, [0] * count, True) for key, count in self._queue.items()]
        self._queue.clear()
        return finished

    def settings(self) -> dict[str, Any]:
        return {}
