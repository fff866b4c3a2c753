"""lm-eval tasks on an engine: a drawn sample of documents, one score per item kept."""

from __future__ import annotations

import difflib
import math
import random
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.engines import Engine
from pipeline.errors import EvaluationError, RecipeError
from pipeline.evaluation.lm import EngineLM
from pipeline.recipe import Evaluate, Serve
from pipeline.records import Item, Task

METRICS = ("acc", "exact_match")  # the per-item right-or-wrong score, in order of preference


class Prepared(NamedTuple):
    """Tasks found and documents drawn, before any engine is started."""

    manager: Any
    leaves: dict[str, dict[str, Any]]
    drawn: dict[str, list[int]]


def prepare(evaluate: Evaluate) -> Prepared:
    """Raises RecipeError for an unknown task or too few documents, EvaluationError if a task's data cannot be had."""
    manager = _manager(evaluate)
    leaves = {name: load_leaves(manager, name, evaluate) for name in evaluate.tasks}
    drawn: dict[str, list[int]] = {}
    for name, wanted in evaluate.tasks.items():
        sizes = {leaf: len(task.eval_docs) for leaf, task in leaves[name].items()}
        drawn.update(draw(name, sizes, wanted, evaluate.seed))
    return Prepared(manager, leaves, drawn)


def measure(engine: Engine, source: Path, evaluate: Evaluate, serve: Serve, prepared: Prepared) -> list[Task]:
    """Runs every task of the recipe through lm-eval."""
    from lm_eval.evaluator import simple_evaluate
    from transformers import AutoTokenizer

    manager, leaves, drawn = prepared
    every = {leaf: task for group in leaves.values() for leaf, task in group.items()}
    greedy = {leaf for leaf, task in every.items() if task.OUTPUT_TYPE == "loglikelihood"}
    model = EngineLM(engine, AutoTokenizer.from_pretrained(source), serve.max_model_len - 1, greedy)
    results = simple_evaluate(model, tasks=list(drawn), task_manager=manager, samples=drawn, bootstrap_iters=0)
    if results is None:
        raise EvaluationError("lm-eval returned no results for this process.")
    return [_task(name, leaves[name], drawn, results["samples"], model) for name in evaluate.tasks]


def _manager(evaluate: Evaluate) -> Any:
    """The local tasks alone if they are all that is asked for: reading lm-eval's own thousands of task files takes long."""
    from lm_eval.tasks import TaskManager

    if evaluate.task_path is not None:
        local = TaskManager(include_path=evaluate.task_path, include_defaults=False)
        if set(evaluate.tasks) <= set(local.all_tasks):
            return local
    return TaskManager(include_path=evaluate.task_path)


def draw(task: str, sizes: dict[str, int], wanted: int | str, seed: int) -> dict[str, list[int]]:
    """A seeded sample over all documents of a task (or of a group's tasks), the same for every engine.

    Returns document numbers per task, sorted; tasks of which nothing was drawn are left out. Raises RecipeError if
    there are fewer documents than wanted.
    """
    population = [(leaf, document) for leaf, size in sizes.items() for document in range(size)]
    count = len(population) if wanted == "all" else int(wanted)
    if count > len(population):
        raise RecipeError(f"evaluate.tasks.{task}: found {count}, the task has {len(population)} documents. Use 'all'.")
    drawn: dict[str, list[int]] = {}
    for leaf, document in sorted(random.Random(f"{seed}:{task}").sample(population, count)):
        drawn.setdefault(leaf, []).append(document)
    return drawn


def load_leaves(manager: Any, name: str, evaluate: Evaluate) -> dict[str, Any]:
    """The lm-eval tasks behind a name: itself, or those of a group. Raises RecipeError if there is no such name."""
    if name not in manager.all_tasks:
        close = difflib.get_close_matches(name, manager.all_tasks, 3)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(sorted(manager.all_tasks)[:10])}."
        where = f"{evaluate.task_path} or " if evaluate.task_path else ""
        raise RecipeError(f"evaluate.tasks: found {name!r}, no such task in {where}lm-eval's own tasks. {hint}")
    try:
        return dict(manager.load([name])["tasks"])
    except (ConnectionError, FileNotFoundError) as error:
        raise RecipeError(
            f"evaluate.tasks.{name}: its data cannot be had: {' '.join(str(error).split())[:200]}. Fetch it on a machine with a "
            "network and bring HF_HOME here, or use a local task."
        ) from error


def _task(name: str, leaves: dict[str, Any], drawn: dict[str, list[int]], samples: dict[str, Any], model: EngineLM) -> Task:
    items: list[Item] = []
    metrics = set()
    for leaf in leaves.keys() & drawn.keys():
        found = samples.get(leaf, [])
        if len(found) != len(drawn[leaf]):
            raise EvaluationError(f"task {leaf}: lm-eval returned {len(found)} items, {len(drawn[leaf])} were drawn.")
        metric = next((metric for metric in METRICS if metric in found[0]), None)
        if metric is None:
            raise EvaluationError(f"task {leaf}: no per-item {' or '.join(METRICS)} among {sorted(found[0])}.")
        metrics.add(metric)
        # lm-eval numbers the requests of a drawn sample by their place in it, and its logged samples by document.
        places = {document: place for place, document in enumerate(drawn[leaf])}
        items += [_item(leaf, sample, metric, model.tokens_hash(leaf, places[sample["doc_id"]])) for sample in found]
    documents = sum(len(task.eval_docs) for task in leaves.values())
    items.sort(key=lambda item: (item.task, item.doc_id))
    return Task(name=name, metric="/".join(sorted(metrics)), documents=documents, items=items)


def _item(leaf: str, sample: dict[str, Any], metric: str, tokens_hash: str) -> Item:
    score = sample[metric]
    return Item(
        task=leaf,
        doc_id=sample["doc_id"],
        doc_hash=sample["doc_hash"],
        prompt_hash=sample["prompt_hash"],
        target_hash=sample["target_hash"],
        tokens_hash=tokens_hash,
        score=float(score) if isinstance(score, (int, float)) else math.nan,
    )
