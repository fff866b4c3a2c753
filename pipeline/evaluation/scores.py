"""Which score of an lm-eval task counts: one filter's, and a metric of 0 to 1 for each item.

The gate compares items one by one, so that what exists for a whole set of answers alone (BLEU,
chrF, F1 over all, perplexity) cannot be gated. It is said by the task's YAML, before anything is
measured; that a score lies between 0 and 1 is held again when it is there."""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

from pipeline.errors import EvaluationError, RecipeError
from pipeline.evaluation.catalogue import Config, Leaf
from pipeline.recipe import TaskItems
from pipeline.recipe.parsing import nearest

# What lm-eval itself computes of one item, by the kind of task, in order of preference.
OF_ONE_ITEM = {
    "multiple_choice": ("acc", "exact_match", "acc_norm", "acc_bytes", "acc_mutual_info"),
    "loglikelihood": ("acc",),
    "generate_until": ("exact_match",),
}
# What tasks with a function of their own call a share of 0 to 1. Others (score, f1, rouge) have
# scales that differ by task.
BY_A_FUNCTION = (
    "acc",
    "exact_match",
    "prompt_level_strict_acc",
    "acc_norm",
    "acc_bytes",
    "em",
    "math_verify",
    "accuracy",
    "prompt_level_loose_acc",
    "exact_match_original",
)
MEANS = (None, "mean", "nanmean")


class Score(NamedTuple):
    filter: str
    metric: str


def choose(task: str, asked: TaskItems, leaf: Leaf) -> Score:
    """Raises RecipeError with the reason if the task cannot be gated, or has no such filter or
    metric."""
    where = f"evaluate.tasks.{task}" if task == leaf.name else f"evaluate.tasks.{task}: {leaf.name}"
    if reason := impossible(leaf.config):
        raise RecipeError(f"{where}: cannot be gated: {reason}.")
    filters = [str(entry["name"]) for entry in leaf.config.get("filter_list") or []] or ["none"]
    if asked.filter is not None and asked.filter not in filters:
        raise RecipeError(
            f"{where}.filter: found {asked.filter!r}, the task has"
            f" {', '.join(filters)}.{nearest(asked.filter, filters)}"
        )
    return Score(asked.filter or filters[0], _metric(where, asked.metric, leaf.config))


def impossible(config: Config) -> str | None:
    """What of a task stands against comparing its items, whatever its metrics are."""
    options, kind = (
        config.get("generation_kwargs") or {},
        config.get("output_type", "generate_until"),
    )
    reasons = [
        (
            "class" in config,
            "a Python class decides what it asks and how it scores, and says so only at work",
        ),
        (
            config.get("doc_to_image") or config.get("doc_to_audio"),
            "it shows pictures or sound, and only texts are asked",
        ),
        (config.get("unsafe_code"), "it runs code that the model writes (unsafe_code)"),
        (
            kind == "loglikelihood_rolling",
            "it measures the perplexity of whole texts. Name them in evaluate.perplexity.texts",
        ),
        (
            kind not in (*OF_ONE_ITEM, "loglikelihood_rolling"),
            f"output_type {kind!r} is none of {', '.join(OF_ONE_ITEM)}",
        ),
        (
            options.get("do_sample") and float(options.get("temperature") or 0) > 0,
            (
                "it draws its answers at random (do_sample, temperature), and greedy ones alone can"
                " be paired"
            ),
        ),
        (
            int(config.get("repeats") or 1) > 1,
            f"it asks each item {config.get('repeats')} times (repeats)",
        ),
        (
            "judge" in _name(config.get("process_results")),
            "another language model judges its answers",
        ),
    ]
    return next((reason for stands, reason in reasons if stands), None)


def _metric(where: str, wanted: str | None, config: Config) -> str:
    listed = metrics(config)
    if wanted is not None:
        by_function = config.get("process_results") or any(_is_function(name) for name in listed)
        if wanted not in map(_name, listed) and not by_function:
            names = [_name(name) for name in listed]
            raise RecipeError(
                f"{where}.metric: found {wanted!r}, the task has"
                f" {', '.join(names)}.{nearest(wanted, names)}"
            )
        if not by_function and wanted not in of_one_item(config):
            raise RecipeError(f"{where}.metric: {_not_of_one(wanted, config)}.")
        return wanted
    known = of_one_item(config)
    if known:
        return known[0]
    vouched = [
        _name(name) for name in listed if config.get("process_results") or _is_function(name)
    ]
    if vouched:
        raise RecipeError(
            f"{where}: cannot be gated as it is: none of its metrics ({', '.join(vouched)}) is"
            " known to be 0 to 1 for each item. If one is, name it: {items: ..., metric:"
            f" {vouched[0]}}}; an item beyond 0 to 1 will end the evaluation."
        )
    raise RecipeError(
        f"{where}: cannot be gated:"
        f" {'; '.join(_not_of_one(_name(name), config) for name in listed)}."
    )


def metrics(config: Config) -> list[Any]:
    """Names, or functions, of the metrics; what lm-eval takes where the task names none."""
    if config.get("metric_list") is None:
        return {"multiple_choice": ["acc", "acc_norm"], "loglikelihood": ["perplexity", "acc"]}.get(
            config.get("output_type", "generate_until"), ["exact_match"]
        )
    return [entry["metric"] for entry in config["metric_list"]]


def of_one_item(config: Config) -> list[str]:
    """The task's metrics that are surely 0 to 1 for each item, the preferred one first."""
    metric_list = config.get("metric_list")
    listed = [{"metric": name} for name in metrics(config)] if metric_list is None else metric_list
    if config.get("process_results"):
        means = [_name(metric["metric"]) for metric in listed if metric.get("aggregation") in MEANS]
        return [name for name in BY_A_FUNCTION if name in means]
    own = [metric["metric"] for metric in listed if not metric.get("hf_evaluate")]
    return [
        name for name in OF_ONE_ITEM[config.get("output_type", "generate_until")] if name in own
    ]


def _not_of_one(name: str, config: Config) -> str:
    if any(
        entry.get("hf_evaluate")
        for entry in config.get("metric_list") or []
        if _name(entry["metric"]) == name
    ):
        return f"{name} is a script from Hugging Face's hub"
    return f"{name} is made of all answers together, or is no share of 0 to 1"


def greedy(config: Any, score: Score) -> bool:
    """Whether the score may ask if the continuation is the greedy one, which costs a look at the
    whole vocabulary."""
    return (
        bool(config.process_results)
        or config.output_type == "loglikelihood"
        or score.metric == "exact_match"
    )


def value(task: str, score: Score, sample: dict[str, Any]) -> float:
    """An item's score. Raises EvaluationError unless it is a number of 0 to 1."""
    if score.metric not in sample:
        raise EvaluationError(
            f"evaluate.tasks: {task} gave no {score.metric!r} for an item, it has"
            f" {', '.join(map(str, sample['metrics']))}. Name one: {{items: ..., metric: NAME}}"
        )
    score_value = sample[score.metric]
    number = (
        float(score_value)
        if isinstance(score_value, numbers.Real) or type(score_value).__name__ == "bool"
        else math.nan
    )
    if not 0 <= number <= 1:
        raise EvaluationError(
            f"evaluate.tasks: {task} gave {score.metric} = {str(score_value)[:80]} for document"
            f" {sample['doc_id']}, expected a number of 0 to 1. Name another of its metrics:"
            " {items: ..., metric: NAME}"
        )
    return number


def _is_function(metric: Any) -> bool:
    """Of a metric in a task's YAML: a function stands there as PATH.NAME."""
    return callable(metric) or "/" in str(metric)


def _name(function: Any) -> str:
    return str(function).rpartition(".")[2] if "/" in str(function) else str(function or "")
