"""lm-eval tasks on an engine: a drawn sample of documents, one score per item kept."""

from __future__ import annotations

import difflib
import hashlib
import math
import random
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.engines import Engine
from pipeline.errors import EvaluationError, RecipeError
from pipeline.evaluation.lm import EngineLM, Noted
from pipeline.evaluation.readable import readable
from pipeline.recipe import Evaluate, Items, Serve
from pipeline.records import Item, Task

METRICS = ("acc", "exact_match")  # the per-item right-or-wrong score, in order of preference
PASSAGES = ("passage", "article", "paragraph", "story")  # fields that several items of lm-eval's own data sets share


class Prepared(NamedTuple):
    """Tasks found and documents drawn, before any engine is started; `places` is each document's place in the draw."""

    manager: Any
    leaves: dict[str, dict[str, Any]]
    places: dict[str, dict[int, int]]


def prepare(evaluate: Evaluate, spans: dict[str, tuple[int, Items]]) -> Prepared:
    """`spans` says which part of each task's draw to measure: from a place up to another, or to the last ("all").

    Raises RecipeError for an unknown task or too few documents, EvaluationError if a task's data cannot be had.
    """
    manager = _manager(evaluate)
    leaves = {name: load_leaves(manager, name, evaluate) for name in spans}
    places: dict[str, dict[int, int]] = {}
    for name, (start, stop) in spans.items():
        sizes = {leaf: len(task.eval_docs) for leaf, task in leaves[name].items()}
        _require_field(leaves[name], evaluate.clusters.get(name))
        for place, (leaf, document) in enumerate(draw(name, sizes, stop, evaluate.seed)):
            if place >= start:
                places.setdefault(leaf, {})[document] = place
    return Prepared(manager, leaves, places)


def count(job: dict[str, Any]) -> dict[str, int]:
    """Worker verb: how many documents each task has whose data is here. Raises RecipeError for what cannot be drawn."""
    evaluate = Evaluate.model_validate(job["evaluate"])
    manager = _manager(evaluate)
    for name in evaluate.tasks:
        _require_known(manager, name, evaluate)
    found = {}
    for name, wanted in (evaluate.tasks | evaluate.extend_to).items():
        try:
            leaves = load_leaves(manager, name, evaluate)
        except EvaluationError:  # its data is not here: nothing can be said of it
            continue
        sizes = {leaf: len(task.eval_docs) for leaf, task in leaves.items()}
        _require_field(leaves, evaluate.clusters.get(name))
        found[name] = len(draw(name, sizes, "all", evaluate.seed))
        draw(name, sizes, wanted, evaluate.seed)
    return found


def _require_field(leaves: dict[str, Any], field: str | None) -> None:
    """Raises RecipeError if a task's documents do not have the field that evaluate.clusters names."""
    for leaf, task in leaves.items():
        columns = sorted(task.eval_docs.features)
        if field is not None and field not in columns:
            raise RecipeError(f"evaluate.clusters: found field {field!r}, documents of {leaf} have {', '.join(columns)}.")


def measure(engine: Engine, source: Path, evaluate: Evaluate, serve: Serve, prepared: Prepared, texts: bool = False) -> list[Task]:
    """Runs every task of the recipe through lm-eval. With `texts`, each item keeps what was asked."""
    from lm_eval.evaluator import simple_evaluate
    from transformers import AutoTokenizer

    manager, leaves, places = prepared
    drawn = {leaf: sorted(found) for leaf, found in places.items()}
    every = {leaf: task for group in leaves.values() for leaf, task in group.items()}
    greedy = {leaf for leaf, task in every.items() if task.OUTPUT_TYPE == "loglikelihood"}
    model = EngineLM(engine, AutoTokenizer.from_pretrained(source), serve.max_model_len - 1, greedy)
    results = simple_evaluate(model, tasks=list(drawn), task_manager=manager, samples=drawn, bootstrap_iters=0)
    if results is None:
        raise EvaluationError("lm-eval returned no results for this process.")
    measured = [_task(name, prepared, results["samples"], model, evaluate.clusters.get(name)) for name in leaves]
    return [_with_texts(task, every) for task in measured] if texts else measured


def _manager(evaluate: Evaluate) -> Any:
    """The local tasks alone if they are all that is asked for: reading lm-eval's own thousands of task files takes long."""
    from lm_eval.tasks import TaskManager

    if evaluate.task_path is not None:
        local = TaskManager(include_path=evaluate.task_path, include_defaults=False)
        if set(evaluate.tasks) <= set(local.all_tasks):
            return local
    return TaskManager(include_path=evaluate.task_path)


def draw(task: str, sizes: dict[str, int], wanted: Items, seed: int) -> list[tuple[str, int]]:
    """A seeded sample over all documents of a task (or of a group's tasks), the same for every engine.

    Returns (task, document) in the order of the draw; a larger draw begins with the smaller one. Raises RecipeError if
    there are fewer documents than wanted.
    """
    population = [(leaf, document) for leaf, size in sizes.items() for document in range(size)]
    count = len(population) if wanted == "all" else wanted
    if count > len(population):
        raise RecipeError(f"evaluate.tasks.{task}: found {count}, the task has {len(population)} documents. Use 'all'.")
    return random.Random(f"{seed}:{task}").sample(population, len(population))[:count]


def load_leaves(manager: Any, name: str, evaluate: Evaluate) -> dict[str, Any]:
    """The lm-eval tasks behind a name: itself, or those of a group. Raises as `prepare` does."""
    _require_known(manager, name, evaluate)
    try:
        return dict(manager.load([name])["tasks"])
    except Exception as error:  # the libraries raise a different class for each way to be offline
        said = " ".join(str(error).split())[:200]
        raise EvaluationError(
            f"evaluate.tasks.{name}: its data cannot be had ({type(error).__name__}: {said}). Fetch it on a machine with a "
            "network and bring HF_HOME here, or use a local task."
        ) from error


def _require_known(manager: Any, name: str, evaluate: Evaluate) -> None:
    if name not in manager.all_tasks:
        close = difflib.get_close_matches(name, manager.all_tasks, 3)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(sorted(manager.all_tasks)[:10])}."
        where = f"{evaluate.task_path} or " if evaluate.task_path else ""
        raise RecipeError(f"evaluate.tasks: found {name!r}, no such task in {where}lm-eval's own tasks. {hint}")


def _task(name: str, prepared: Prepared, samples: dict[str, Any], model: EngineLM, cluster: str | None) -> Task:
    items: list[Item] = []
    metrics = set()
    leaves = prepared.leaves[name]
    for leaf in leaves.keys() & prepared.places.keys():
        found, places = samples.get(leaf, []), prepared.places[leaf]
        if len(found) != len(places):
            raise EvaluationError(f"task {leaf}: lm-eval returned {len(found)} items, {len(places)} were drawn.")
        metric = next((metric for metric in METRICS if metric in found[0]), None)
        if metric is None:
            raise EvaluationError(f"task {leaf}: no per-item {' or '.join(METRICS)} among {sorted(found[0])}.")
        metrics.add(metric)
        # lm-eval numbers the requests of a drawn sample by their place in it, and its logged samples by document.
        requests = {document: number for number, document in enumerate(sorted(places))}
        for sample in found:
            noted = model.noted(leaf, requests[sample["doc_id"]])
            items.append(_item(leaves[leaf], leaf, sample, metric, places[sample["doc_id"]], noted, cluster))
    documents = sum(len(task.eval_docs) for task in leaves.values())
    items.sort(key=lambda item: item.place)
    return Task(name=name, metric="/".join(sorted(metrics)), documents=documents, items=items)


def _item(task: Any, leaf: str, sample: dict[str, Any], metric: str, place: int, noted: Noted, cluster: str | None) -> Item:
    score, document = sample[metric], sample["doc"]
    choices = len(task.doc_to_choice(document)) if task.OUTPUT_TYPE == "multiple_choice" else 0
    return Item(
        task=leaf,
        doc_id=sample["doc_id"],
        place=place,
        cluster=_cluster(leaf, document, sample["doc_id"], cluster),
        chance=1 / choices if choices else 0.0,
        generated_tokens=noted.generated_tokens,
        doc_hash=sample["doc_hash"],
        prompt_hash=sample["prompt_hash"],
        target_hash=sample["target_hash"],
        tokens_hash=noted.tokens.hexdigest(),
        score=float(score) if isinstance(score, (int, float)) else math.nan,
    )


def _cluster(leaf: str, document: dict[str, Any], doc_id: int, given: str | None) -> str:
    """Items that share the recipe's field, or a passage, depend on each other; any other item stands alone."""
    field = given or next((name for name in PASSAGES if name in document), None)
    shared = f"{field}:{document[field]}" if field else str(doc_id)
    return hashlib.sha256(f"{leaf}/{shared}".encode()).hexdigest()[:16]


def _with_texts(task: Task, leaves: dict[str, Any]) -> Task:
    documents = {leaf: leaves[leaf].eval_docs for leaf in {item.task for item in task.items}}  # lm-eval makes them anew each time
    texts = [readable(leaves[item.task], documents[item.task][item.doc_id]) for item in task.items]
    items = [item.model_copy(update={"text": text}) for item, text in zip(task.items, texts, strict=True)]
    return task.model_copy(update={"items": items})
