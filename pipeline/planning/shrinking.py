"""Which settings of a recipe its time is spent on: what half of each would save."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from pipeline.planning import estimate
from pipeline.planning.estimate import Counted
from pipeline.recipe import Recipe

LEAST = 0.05  # of the whole time: what saves less is not said


def savings(recipe: Recipe, counted: Counted, total_s: float) -> list[tuple[str, float]]:
    """What to change, in words, and the seconds that it saves; the largest first."""
    left = (
        (how, sum(row.seconds for row in estimate.stages(smaller, less)))
        for how, smaller, less in _halves(recipe, counted)
    )
    candidates = [
        (how, total_s - seconds) for how, seconds in left if total_s - seconds > LEAST * total_s
    ]
    return sorted(candidates, key=lambda saving: -saving[1])


def _halves(recipe: Recipe, counted: Counted) -> Iterator[tuple[str, Recipe, Counted]]:
    items = {
        task: estimate.DEFAULT_ITEMS if count is None else count
        for task, count in counted.items.items()
    }
    yield (
        "evaluate.tasks: half the items",
        recipe,
        counted._replace(items={task: count // 2 for task, count in items.items()}),
    )
    if not recipe.gate.sequential:
        yield (
            "gate.sequential: true, at best",
            recipe,
            counted._replace(items={task: count // 5 for task, count in items.items()}),
        )
    windows = {text: count // 2 for text, count in estimate.windows(recipe, counted.load).items()}
    fewer = counted.load.model_copy(update={"windows": windows})
    yield (
        f"evaluate.perplexity.max_windows: {max(windows.values())}",
        recipe,
        counted._replace(load=fewer),
    )
    samples = max(1, recipe.calibration.samples // 2)
    yield f"calibration.samples: {samples}", _with(recipe, "calibration", samples=samples), counted
    repeats = max(1, recipe.benchmark.repeats // 2)
    yield f"benchmark.repeats: {repeats}", _with(recipe, "benchmark", repeats=repeats), counted
    for name in recipe.variants:
        others = {other: variant for other, variant in recipe.variants.items() if other != name}
        smaller = recipe.model_copy(update={"variants": others})
        if _is_whole(smaller):
            yield f"without variant {name}", smaller, counted


def _is_whole(recipe: Recipe) -> bool:
    """An engine's unquantized variant is what its others are held against."""
    try:
        Recipe.model_validate(recipe.model_dump(exclude_unset=True))
    except ValidationError:
        return False
    return True


def _with(recipe: Recipe, part: str, **settings: int) -> Recipe:
    return recipe.model_copy(update={part: getattr(recipe, part).model_copy(update=settings)})
