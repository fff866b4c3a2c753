"""What is measured of quality, and its limits of acceptance."""

from __future__ import annotations

import random
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from pipeline.recipe.base import LARGEST, LONGEST, MOST, Count, LocalPath, Positive, Strict, Weights
from pipeline.recipe.long_context import LongContext, LongWindows
from pipeline.recipe.parsing import one_of_several

Items = Annotated[
    Positive | Literal["all"], one_of_several(f"a number of items, 1 to {LARGEST:,}, or 'all'")
]
Drop = Annotated[float, Field(gt=0, le=0.5)]
BY_WEIGHTS = (
    "perplexity_ratio",
    "mean_kl",
    "p99_kl",
    "top1_agreement",
    "accuracy_drop",
    "task_drop",
)


def first_windows(count: int, fraction: float, seed: int) -> list[int]:
    """The windows of a text, of `count` in a random order, that are looked at first; in the text's
    order."""
    order = random.Random(seed).sample(range(count), count)
    return sorted(order[: max(1, round(count * fraction))])


class Perplexity(Strict):
    """Protocol of the GPTQ paper (arXiv 2210.17323): non-overlapping windows, tail dropped,
    positions 2.. scored."""

    texts: Annotated[list[str], Field(min_length=1)]
    window: Annotated[int, Field(ge=8, le=LONGEST)]
    max_windows: Positive | None = Field(
        None, description="use the first N windows of each text; default all"
    )
    bos: Literal["first", "every"] = Field(
        "first", description="'every': each window starts with BOS (Gemma needs it)"
    )


class Divergence(Strict):
    """Comparison of whole next-token distributions with the reference's.

    Many windows with few positions each tell more than few whole ones, since the positions of a
    window are alike (docs/decisions.md has how narrow the bounds get with few windows)."""

    positions: Annotated[
        int,
        Field(
            ge=512, le=LONGEST, description="of all texts; each costs 4 bytes x vocabulary on disk"
        ),
    ] = 8192
    windows: Annotated[
        int, Field(ge=16, le=MOST, description="of each text, spread evenly, or all that it has")
    ] = 150

    def chosen(self, count: int) -> list[int]:
        """Which of a text's `count` windows are compared."""
        wanted = min(count, self.windows)
        return [place * count // wanted for place in range(wanted)]

    def places(self, count: int, scored: int, texts: int) -> range:
        """Which of a window's `scored` positions are compared: every n-th, so that all texts give
        `positions` at least."""
        return range(0, scored, max(1, min(count, self.windows) * scored * texts // self.positions))


class TaskItems(Strict):
    """Items to draw of an lm-eval task, and which score of an item counts."""

    items: Items
    filter: str | None = Field(
        None, description="which of the task's filters reads the answers; default its first"
    )
    metric: str | None = Field(
        None,
        description="a metric of 0 to 1 for each item; default acc, exact_match, or one like them",
    )


def _form(asked: Any) -> str:
    return (
        "[mapping]" if isinstance(asked, dict | TaskItems) else "[number]"
    )  # in brackets: no part of a key in a message


class Evaluate(Strict):
    perplexity: Perplexity
    divergence: Divergence = Divergence()
    long_context: LongContext | None = Field(
        None, description="divergence by position up to serve.max_model_len; default not"
    )
    tasks: Annotated[
        dict[
            str,
            Annotated[
                Annotated[Items, Tag("[number]")] | Annotated[TaskItems, Tag("[mapping]")],
                Discriminator(_form),
            ],
        ],
        Field(min_length=1),
    ] = Field(description="items to draw of each lm-eval task, or {items, filter, metric}")
    extend_to: dict[str, Positive] = Field(
        {}, description="most items to draw with gate.on_inconclusive: extend"
    )
    clusters: dict[str, str] = Field(
        {}, description="document field that related items of a task share (passage, subject)"
    )
    task_path: LocalPath | None = Field(None, description="folder of local lm-eval task files")
    task_code: bool = Field(
        False, description="run code that local task files name; take them from outside the project"
    )
    seed: Count = 0

    def long_windows(self, max_model_len: int) -> LongWindows | None:
        """What is compared at long context, where the recipe asks for it."""
        if self.long_context is None:
            return None
        return LongWindows(
            self.long_context, self.perplexity.window, max_model_len, self.perplexity.bos == "every"
        )

    @property
    def compared_at_most(self) -> int:
        """Windows of a text whose distributions are compared, if it has as many."""
        return min(self.divergence.windows, self.perplexity.max_windows or self.divergence.windows)

    @property
    def items(self) -> dict[str, Items]:
        """How many items to draw of each task."""
        return {
            name: asked.items if isinstance(asked, TaskItems) else asked
            for name, asked in self.tasks.items()
        }

    def asked(self, task: str) -> TaskItems:
        items = self.tasks[task]
        return (
            items
            if isinstance(items, TaskItems)
            else TaskItems(items=items, filter=None, metric=None)
        )

    @model_validator(mode="after")
    def _known_tasks(self) -> Self:
        for key, tasks in (("extend_to", self.extend_to or {}), ("clusters", self.clusters)):
            for name in tasks.keys() - self.tasks.keys():
                raise ValueError(
                    f"{key}: found task {name!r}, expected one of evaluate.tasks:"
                    f" {', '.join(self.tasks)}"
                )
        if self.extend_to:
            self._one_multiple()
        if len(set(self.perplexity.texts)) < len(self.perplexity.texts):
            raise ValueError(
                f"perplexity.texts: found {self.perplexity.texts}, expected each text once"
            )
        return self

    def _one_multiple(self) -> None:
        """Tasks that grew at different rates would weigh differently in the pooled accuracy after
        each look."""
        growth = {
            name: self.extend_to.get(name, 0) / drawn
            for name, drawn in self.items.items()
            if not isinstance(drawn, str)
        }
        whole = sorted(name for name, drawn in self.items.items() if drawn == "all")
        if whole:
            raise ValueError(
                f"extend_to: task {whole[0]!r} is measured whole ('all') and cannot grow. Give a"
                " number of its items"
            )
        if min(growth.values()) < 1 or len(set(growth.values())) > 1:
            multiples = ", ".join(f"{name} {ratio:g} times" for name, ratio in growth.items())
            raise ValueError(
                f"extend_to: found {multiples} the items of evaluate.tasks, expected the same"
                " multiple"
                " for every task"
            )


class Gate(Strict):
    """Limits of acceptance, each by the precision of the variant's weights; definitions in
    pipeline/gate."""

    perplexity_ratio: dict[Weights, Annotated[float, Field(gt=1, le=100)]]
    mean_kl: dict[Weights, Annotated[float, Field(gt=0, le=20, description="nats per token")]]
    p99_kl: dict[Weights, Annotated[float, Field(gt=0, le=100, description="nats per token")]]
    top1_agreement: dict[Weights, Annotated[float, Field(ge=0.1, lt=1)]]
    accuracy_drop: dict[Weights, Drop]
    task_drop: dict[Weights, Drop]
    speedup: dict[Weights, Annotated[float, Field(gt=0, le=100)]] = Field(
        default={},
        description=(
            "output tokens/s over the unquantized model's on the same engine, at the lowest"
            " concurrency"
        ),
    )
    length_ratio: Annotated[
        list[Annotated[float, Field(ge=0.1, le=10)]], Field(min_length=2, max_length=2)
    ] = Field(default=[0.9, 1.1])
    confidence: Annotated[
        float, Field(ge=0.8, le=0.9999, description="below 0.8 a PASS says little")
    ] = 0.95
    rare: Annotated[float, Field(ge=1e-4, lt=1)] | None = Field(
        0.02,
        description="damage in this share of a text's windows must show: fewer windows are no PASS",
    )
    sequential: bool = Field(
        False, description="draw the items in parts, and stop as soon as they decide"
    )
    on_inconclusive: Literal["block", "extend"] = "block"

    @model_validator(mode="after")
    def _low_then_high(self) -> Self:
        if not self.length_ratio[0] < 1 < self.length_ratio[1]:
            raise ValueError(
                f"length_ratio: found {self.length_ratio}, expected a value below 1 and one above"
            )
        return self
