"""lm-eval tasks on an engine: a drawn sample of documents, one score per item kept."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.engines import Engine
from pipeline.errors import EvaluationError, RecipeError
from pipeline.evaluation import catalogue, scores, trust
from pipeline.evaluation.lm import MAX_GEN_TOKENS, EngineLM, Noted
from pipeline.evaluation.readable import readable
from pipeline.evaluation.scores import Score
from pipeline.recipe import Evaluate, Items, PromptSet, Serve
from pipeline.records import Item, Task
from pipeline.source import hub, prompts

LOOKED_AT = 64  # documents of a task that `plan` tries
LEAST_PROMPT = 16  # tokens without which no question can be asked
PASSAGES = (
    "passage",
    "article",
    "paragraph",
    "story",
)  # fields that several items of lm-eval's own data sets share


class Prepared(NamedTuple):
    """Tasks found and documents drawn, before any engine is started; `places` is each document's
    place in the draw."""

    manager: Any
    scores: dict[str, dict[str, Score]]
    leaves: dict[str, dict[str, Any]]
    places: dict[str, dict[int, int]]


def prepare(evaluate: Evaluate, serve: Serve, spans: dict[str, tuple[int, Items]]) -> Prepared:
    """`spans` says which part of each task's draw to measure: from a place up to another, or to the
    last ("all").

    Raises RecipeError for a task that is unknown, cannot be gated or fails by itself, or for too
    few documents; EvaluationError if a task's data cannot be had."""
    manager = catalogue.manager(evaluate)
    chosen = _choose(manager, evaluate, serve)
    leaves = {name: load_leaves(manager, name) for name in spans}
    places: dict[str, dict[int, int]] = {}
    for name, (start, stop) in spans.items():
        sizes = {leaf: len(task.eval_docs) for leaf, task in leaves[name].items()}
        _require_field(leaves[name], evaluate.clusters.get(name))
        for place, (leaf, document) in enumerate(draw(name, sizes, stop, evaluate.seed)):
            if place >= start:
                places.setdefault(leaf, {})[document] = place
        for leaf in leaves[name].keys() & places.keys():
            _require_sound(name, leaf, leaves[name][leaf], sorted(places[leaf]))
    return Prepared(manager, chosen, leaves, places)


def count(job: dict[str, Any]) -> dict[str, Any]:
    """Worker verb: `items`, how many documents each task has whose data is here, and `absent`, the
    data of the others and of the prompt sets in `prompts`. Raises RecipeError for what cannot be
    measured."""
    evaluate, serve = Evaluate.model_validate(job["evaluate"]), Serve.model_validate(job["serve"])
    manager = catalogue.manager(evaluate)
    _choose(manager, evaluate, serve)
    counts: dict[str, int] = {}
    absent: list[str] = []
    for name, given in job.get("prompts", {}).items():
        asked = PromptSet.model_validate(given)
        if not prompts.is_here(asked):
            absent.append(f"prompt set {name} ({asked.repo})")
    for name, wanted in (evaluate.items | evaluate.extend_to).items():
        try:
            leaves = load_leaves(manager, name)
        except EvaluationError:  # its data is not here: nothing can be said of it
            absent.append(
                f"task {name} ({', '.join(catalogue.data_sets(manager.task_index, name))})"
            )
            continue
        sizes = {leaf: len(task.eval_docs) for leaf, task in leaves.items()}
        _require_field(leaves, evaluate.clusters.get(name))
        counts[name] = len(draw(name, sizes, "all", evaluate.seed))
        for leaf, document in draw(name, sizes, wanted, evaluate.seed)[:LOOKED_AT]:
            _require_sound(name, leaf, leaves[leaf], [document])
    return {"items": counts, "absent": absent}


def _choose(manager: Any, evaluate: Evaluate, serve: Serve) -> dict[str, dict[str, Score]]:
    """Which score of each task counts. Raises RecipeError for what its YAML files show to be
    impossible."""
    chosen: dict[str, dict[str, Score]] = {}
    for name, leaves in catalogue.by_task(manager.task_index, evaluate).items():
        for leaf in leaves:
            trust.require(name, evaluate, leaf)
            chosen.setdefault(name, {})[leaf.name] = scores.choose(name, evaluate.asked(name), leaf)
            _require_room(name, leaf, serve)
    return chosen


def _require_room(name: str, leaf: catalogue.Leaf, serve: Serve) -> None:
    """Raises RecipeError if the answers may take so many tokens that none are left for a prompt."""
    options = leaf.config.get("generation_kwargs") or {}
    answer = int(options.get("max_gen_toks", MAX_GEN_TOKENS))
    if (
        leaf.config.get("output_type", "generate_until") == "generate_until"
        and answer + LEAST_PROMPT + 1 > serve.max_model_len
    ):
        raise RecipeError(
            f"evaluate.tasks.{name}: {leaf.name} generates up to {answer} tokens"
            f" (generation_kwargs.max_gen_toks), and serve.max_model_len of {serve.max_model_len}"
            f" leaves {max(0, serve.max_model_len - 1 - answer)} for the prompt. Set"
            f" serve.max_model_len to {answer + 1} and the tokens of the longest prompt, or let the"
            " task generate less."
        )


def _require_sound(name: str, leaf: str, task: Any, documents: list[int]) -> None:
    """Raises RecipeError if the task's own templates or functions fail on one of its documents."""
    rows = task.eval_docs
    for number in documents:
        try:
            readable(task, rows[number])
        except (
            Exception
        ) as error:  # templates and functions raise whatever a row makes Python raise
            raise RecipeError(
                f"evaluate.tasks.{name}: {_failed(error)}, at document {number} of {leaf}. Mend the"
                " task."
            ) from error


def _require_field(leaves: dict[str, Any], field: str | None) -> None:
    """Raises RecipeError if a task's documents do not have the field that evaluate.clusters
    names."""
    for leaf, task in leaves.items():
        columns = sorted(task.eval_docs.features)
        if field is not None and field not in columns:
            raise RecipeError(
                f"evaluate.clusters: found field {field!r}, documents of {leaf} have"
                f" {', '.join(columns)}."
            )


def measure(
    engine: Engine,
    source: Path,
    evaluate: Evaluate,
    serve: Serve,
    prepared: Prepared,
    texts: bool = False,
) -> list[Task]:
    """Runs every task of the recipe through lm-eval. With `texts`, each item keeps what was
    asked."""
    from lm_eval.evaluator import simple_evaluate
    from transformers import AutoTokenizer

    manager, leaves, places = prepared.manager, prepared.leaves, prepared.places
    drawn = {leaf: sorted(drawn_of) for leaf, drawn_of in places.items()}
    every = {leaf: task for group in leaves.values() for leaf, task in group.items()}
    chosen = {leaf: score for group in prepared.scores.values() for leaf, score in group.items()}
    greedy = {leaf for leaf, task in every.items() if scores.greedy(task.config, chosen[leaf])}
    model = EngineLM(engine, AutoTokenizer.from_pretrained(source), serve.max_model_len - 1, greedy)
    results = simple_evaluate(
        model, tasks=list(drawn), task_manager=manager, samples=drawn, bootstrap_iters=0
    )
    if results is None:
        raise EvaluationError("lm-eval returned no results for this process.")
    if model.cut:
        print(
            f"note: {model.cut} prompts lost their beginning: serve.max_model_len of"
            f" {serve.max_model_len} has no room for them"
        )
    code = trust.code(evaluate)
    measured = [
        _task(name, prepared, results["samples"], model, evaluate.clusters.get(name), code)
        for name in leaves
    ]
    return [_with_texts(task, every) for task in measured] if texts else measured


def draw(task: str, sizes: dict[str, int], wanted: Items, seed: int) -> list[tuple[str, int]]:
    """A seeded sample over all documents of a task (or of a group's tasks), the same for every
    engine.

    Returns (task, document) in the order of the draw; a larger draw begins with the smaller one.
    Raises RecipeError if there are fewer documents than wanted."""
    population = [(leaf, document) for leaf, size in sizes.items() for document in range(size)]
    count = len(population) if wanted == "all" else wanted
    if count > len(population):
        raise RecipeError(
            f"evaluate.tasks.{task}: found {count}, the task has {len(population)} documents. Use"
            " 'all'."
        )
    return random.Random(f"{seed}:{task}").sample(population, len(population))[:count]


def load_leaves(manager: Any, name: str) -> dict[str, Any]:
    """The lm-eval tasks behind a name: itself, or those of a group.

    Raises EvaluationError if the data cannot be had, RecipeError if the task fails by itself.
    """
    try:
        return dict(manager.load([name])["tasks"])
    # the libraries raise a different class for each way to be offline, and tasks anything
    except Exception as error:
        if not _is_about_data(error):
            raise RecipeError(
                f"evaluate.tasks.{name}: {_failed(error)}. Its data was read: mend the task."
            ) from error
        read = ", ".join(catalogue.data_sets(manager.task_index, name))
        raise EvaluationError(
            f"evaluate.tasks.{name}: its data ({read}) cannot be had: {hub.reason(error)}."
            f" {hub.BRING}; of a local task, look at dataset_path and dataset_kwargs.data_files."
        ) from error


def _is_about_data(error: BaseException | None) -> bool:
    """Whether a file, the cache or the network is at fault, by the classes that `datasets` and the
    hub raise."""
    while error is not None:
        names = {cls.__name__ for cls in type(error).__mro__}  # httpx.HTTPError is no OSError
        if isinstance(error, OSError) or "HTTPError" in names or hub.is_unreachable(error):
            return True
        error = error.__cause__
    return False


def _failed(error: Exception) -> str:
    return f"the task's own error ({_one_line(error)})"


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _task(
    name: str,
    prepared: Prepared,
    samples: dict[str, Any],
    model: EngineLM,
    cluster: str | None,
    code: dict[str, str],
) -> Task:
    items: list[Item] = []
    leaves, chosen = prepared.leaves[name], prepared.scores[name]
    measured = sorted(leaves.keys() & prepared.places.keys())
    for leaf in measured:
        returned = [
            sample for sample in samples.get(leaf, []) if sample["filter"] == chosen[leaf].filter
        ]
        places = prepared.places[leaf]
        if len(returned) != len(places):
            raise EvaluationError(
                f"task {leaf}: lm-eval returned {len(returned)} items, {len(places)} were drawn."
            )
        # lm-eval numbers the requests of a drawn sample by their place in it, and its logged
        # samples by document.
        requests = {document: number for number, document in enumerate(sorted(places))}
        for sample in returned:
            noted = model.noted(leaf, requests[sample["doc_id"]])
            items.append(
                _item(
                    leaves[leaf],
                    leaf,
                    sample,
                    chosen[leaf],
                    places[sample["doc_id"]],
                    noted,
                    cluster,
                )
            )
    return Task(
        name=name,
        metric="/".join(sorted({chosen[leaf].metric for leaf in measured})),
        filter="/".join(sorted({chosen[leaf].filter for leaf in measured})),
        code=code,
        documents=sum(len(task.eval_docs) for task in leaves.values()),
        items=sorted(items, key=lambda item: item.place),
    )


def _item(
    task: Any,
    leaf: str,
    sample: dict[str, Any],
    score: Score,
    place: int,
    noted: Noted,
    cluster: str | None,
) -> Item:
    document = sample["doc"]
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
        score=scores.value(leaf, score, sample),
    )


def _cluster(leaf: str, document: dict[str, Any], doc_id: int, given: str | None) -> str:
    """Items that share the recipe's field, or a passage, depend on each other; any other item
    stands alone."""
    field = given or next((name for name in PASSAGES if name in document), None)
    shared = f"{field}:{document[field]}" if field else str(doc_id)
    return hashlib.sha256(f"{leaf}/{shared}".encode()).hexdigest()[:16]


def _with_texts(task: Task, leaves: dict[str, Any]) -> Task:
    documents = {
        leaf: leaves[leaf].eval_docs for leaf in {item.task for item in task.items}
    }  # lm-eval makes them anew each time
    texts = [readable(leaves[item.task], documents[item.task][item.doc_id]) for item in task.items]
    items = [
        item.model_copy(update={"text": text}) for item, text in zip(task.items, texts, strict=True)
    ]
    return task.model_copy(update={"items": items})
