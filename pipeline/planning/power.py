"""What a recipe's items can decide, before anything runs: the power part of `quantgate plan`.

How many items a quantized model changes is not known beforehand. On tiny, OpenVINO's 8-bit weights
changed 0.4 % of them, its 4-bit ones 5 % and GPTQ's 6 %."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from pipeline import gate, paths
from pipeline.gate import statistics
from pipeline.recipe import Recipe, load_prompt_set, rungs
from pipeline.recipe.parsing import of_file
from pipeline.records import artifact
from pipeline.runtime import environments, process

FLIPS = (0.02, 0.04, 0.10)
POWER = 0.8
LEAST = 2  # items below which no test exists


class Power(NamedTuple):
    """`detectable`: for each rate in FLIPS the smallest drop that the items tell from none;
    `margins`: limit by precision."""

    task: str
    items: int | None
    detectable: list[float]
    margins: dict[str, float]


def of(recipe: Recipe, items: dict[str, int | None]) -> list[Power]:
    """One row a task and one for all pooled, which the gate decides on. An unknown number of items
    stays unknown."""
    used = {
        rung.weights: gate.limits.of(recipe, rung)
        for variant in recipe.variants.values()
        for rung in rungs(variant)
    }
    counts = list(items.values())
    known = [count for count in counts if count is not None]
    rows = [
        _row(
            task, count, recipe.gate.confidence, {w: limits.task_drop for w, limits in used.items()}
        )
        for task, count in items.items()
    ]
    pooled = sum(known) if len(known) == len(counts) else None
    held_to = next(iter(used.values()))
    confidence = held_to.confidence_at(len(held_to.fractions) - 1)
    return [
        *rows,
        _row(
            "all pooled",
            pooled,
            confidence,
            {w: limits.accuracy_drop for w, limits in used.items()},
        ),
    ]


def _row(task: str, items: int | None, confidence: float, margins: dict[str, float]) -> Power:
    few = items is None or items < LEAST
    detectable = (
        []
        if few or items is None
        else [statistics.detectable_drop(items, rate, confidence, POWER) for rate in FLIPS]
    )
    return Power(task, items, detectable, margins)


def count_items(recipe: Recipe) -> dict[str, int | None]:
    """Items by task; 'all' is looked up, None if that cannot be done here.

    Raises RecipeError for an unknown task, or more items than it has.
    """
    asked = recipe.evaluate.items
    if not environments.is_complete("openvino"):
        return {task: None if count == "all" else count for task, count in asked.items()}
    file = paths.recipe(recipe.name)
    with artifact.stage_folder(f"plan@{recipe.name}") as folder, of_file(file):
        job = {
            "evaluate": recipe.evaluate.model_dump(),
            "serve": recipe.serve.model_dump(),
            "prompts": _of_the_hub(recipe),
        }
        answer = process.run("openvino", "count", job, folder, offline=True).value
    if absent := [*_absent_model(recipe), *answer["absent"]]:
        print(
            f"note: not on this machine, so fetched from the hub when it is needed:"
            f" {', '.join(absent)}. Without a network here: dvc repro reference@{recipe.name}"
            f" trace@{recipe.name} on a machine that has one, then bring its cache (HF_HOME).",
            file=sys.stderr,
        )
    counts = answer["items"]
    return {task: counts.get(task) if count == "all" else count for task, count in asked.items()}


def _absent_model(recipe: Recipe) -> list[str]:
    from huggingface_hub import try_to_load_from_cache

    repo, revision = recipe.model.repo, recipe.model.revision
    if repo is None or isinstance(
        try_to_load_from_cache(repo, "config.json", revision=revision), str
    ):
        return []
    return [f"model {repo}"]


def _of_the_hub(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The prompt sets and texts that are no local files."""
    timed = [recipe.benchmark.prompts] if recipe.benchmark.prompts else []
    names = (recipe.calibration.prompts, *recipe.evaluate.perplexity.texts, *timed)
    sets = {name: load_prompt_set(name) for name in names}
    return {
        name: prompt_set.model_dump()
        for name, prompt_set in sets.items()
        if prompt_set.repo is not None
    }
