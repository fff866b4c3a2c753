"""Runs inside the openvino environment: what quantgate says of tasks before anything is measured.

python -m tests.contract.tasks_probe EVERY OUT.json every task that the pinned lm-eval ships: the
metric, or the refusal python -m tests.contract.tasks_probe JOBS.json OUT.json the worker verb
"count" for each job: what it returns, or the refusal"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.errors import QuantgateError
from pipeline.evaluation import catalogue, scores, tasks, trust
from pipeline.recipe import Evaluate, Perplexity, TaskItems


def every() -> dict[str, Any]:
    evaluate = Evaluate(perplexity=Perplexity(texts=["x"], window=8), tasks={"x": 1})
    manager = catalogue.manager(evaluate)
    found = {}
    for name in manager.all_subtasks:
        try:
            (leaf,) = catalogue.leaves(manager.task_index, name, evaluate)
            trust.require(name, evaluate, leaf)
            found[name] = {
                "metric": scores.choose(
                    name, TaskItems(items=1, filter=None, metric=None), leaf
                ).metric
            }
        except QuantgateError as error:
            found[name] = {"refused": str(error)}
    return found


def counted(jobs: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, job in jobs.items():
        try:
            found[name] = tasks.count(job)
        except QuantgateError as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def main(jobs: str, out: str) -> None:
    Path(out).write_text(
        json.dumps(every() if jobs == "EVERY" else counted(json.loads(Path(jobs).read_text())))
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
