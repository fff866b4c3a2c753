"""How much a recipe evaluates, in tokens: looked at in the openvino environment where its data is
here, else what is usual."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pipeline import paths
from pipeline import recipe as recipes
from pipeline.gate import limits
from pipeline.recipe import Recipe, Variant
from pipeline.recipe.parsing import of_file
from pipeline.records import TaskLoad, Texts, Workload, artifact, read
from pipeline.runtime import environments, process

DEFAULT_WINDOWS = 141  # WikiText-2 test in windows of 2048
DEFAULT_ITEMS = 2500
USUAL_LOAD = TaskLoad(
    tokens=90, shared_tokens=60, rows=25, generated=0
)  # LAMBADA, ARC-Easy and PIQA without examples


class Tokens(NamedTuple):
    """What one pass puts to an engine: tokens through the blocks, rows through the output
    projection, tokens decoded."""

    blocks: float
    rows: float
    decoded: float = 0.0

    def plus(self, other: Tokens) -> Tokens:
        return Tokens(*(a + b for a, b in zip(self, other, strict=True)))


def look(recipe: Recipe) -> Workload:
    """Windows of the texts that are calibrated or local, loads of the tasks whose data is here.
    Raises RecipeError."""
    known = Workload(windows={}, tasks={})
    folder = next(
        (
            path
            for path in (paths.source(recipe.name), Path(recipe.model.path or "missing"))
            if path.is_dir()
        ),
        None,
    )
    if folder is not None and environments.is_complete("openvino"):
        sets = {key: recipes.load_prompt_set(key) for key in recipe.evaluate.perplexity.texts}
        job = {
            "evaluate": recipe.evaluate.model_dump(),
            "serve": recipe.serve.model_dump(),
            "checkpoint": str(folder.resolve()),
            "texts": {
                key: prompt_set.model_dump()
                for key, prompt_set in sets.items()
                if prompt_set.path is not None
            },
        }
        file = paths.recipe(recipe.name)
        with artifact.stage_folder(f"weigh@{recipe.name}") as scratch, of_file(file):
            known = Workload.model_validate(
                process.run("openvino", "weigh", job, scratch, offline=True).value
            )
    if not paths.texts(recipe.name).is_file():
        return known
    texts = {text.name: len(text.windows) for text in read(paths.texts(recipe.name), Texts).texts}
    return known.model_copy(update={"windows": known.windows | texts})


def windows(recipe: Recipe, load: Workload) -> dict[str, int]:
    """Of each text; of one that was not looked at, what the recipe asks for or a usual text has."""
    usual = recipe.evaluate.perplexity.max_windows or DEFAULT_WINDOWS
    return {text: load.windows.get(text, usual) for text in recipe.evaluate.perplexity.texts}


def texts(recipe: Recipe, load: Workload) -> Tokens:
    """All windows, and the long ones that are compared, each row of them projected."""
    scored = sum(windows(recipe, load).values()) * (recipe.evaluate.perplexity.window - 1)
    scored += long_windows(recipe, load) * (recipe.serve.max_model_len - 1)
    return Tokens(scored, scored)


def long_windows(recipe: Recipe, load: Workload) -> int:
    """Of all texts; none where the recipe does not ask for long context."""
    long = recipe.evaluate.long_windows(recipe.serve.max_model_len)
    return sum(len(long.chosen(count)) for count in windows(recipe, load).values()) if long else 0


def compared(recipe: Recipe, load: Workload) -> Tokens:
    """The windows that are compared with the reference's distributions, which the `weights` view
    scores again."""
    chosen = sum(
        len(recipe.evaluate.divergence.chosen(count)) for count in windows(recipe, load).values()
    )
    scored = chosen * (recipe.evaluate.perplexity.window - 1)
    return Tokens(scored, scored)


def tasks(recipe: Recipe, load: Workload, items: dict[str, int], shares: bool) -> Tokens:
    """So many items of each task; `shares`: what prompts begin with alike is computed once."""
    tokens_of_all = Tokens(0, 0)
    for task, count in items.items():
        one = load.tasks.get(task, USUAL_LOAD)
        tokens = one.shared_tokens if shares else one.tokens
        tokens_of_all = tokens_of_all.plus(
            Tokens(count * tokens, count * one.rows, count * one.generated)
        )
    return tokens_of_all


def most_items(recipe: Recipe, counts: dict[str, int | None]) -> dict[str, int]:
    """What the reference measures: all that any look may draw. `counts` is what power.count_items
    found."""
    drawn = {task: DEFAULT_ITEMS if count is None else count for task, count in counts.items()}
    caps = recipe.evaluate.extend_to if recipe.gate.on_inconclusive == "extend" else {}
    return drawn | caps


def first_items(recipe: Recipe, variant: Variant, counts: dict[str, int | None]) -> dict[str, int]:
    """What evaluate measures of a variant; the gate adds the rest, part by part, while that can
    decide."""
    held_to = limits.of(recipe, variant)
    return {
        task: held_to.size(task, DEFAULT_ITEMS if count is None else count, 0)
        for task, count in counts.items()
    }
