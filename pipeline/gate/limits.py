"""What the gate holds an artifact to: the recipe's limits for its precision, and what must have
been measured."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.gate import spending
from pipeline.recipe import (
    BY_WEIGHTS,
    Divergence,
    Items,
    LongWindows,
    Recipe,
    Variant,
    first_windows,
)
from pipeline.records import Check, Question, Status

LOOKS = 5  # of a sequential gate: equal parts of the items
# a limit must lie this many noise floors above what the unquantized model measures on the same
# engine
FLOORS = 3


@dataclass(frozen=True)
class Limits:
    """perplexity_ratio over the reference's; mean_kl and p99_kl in nats per token; drops and
    top1_agreement as shares.

    `items` gives, for each task, the items that must have been measured, and the most that may be
    (extension); `sequential` whether they, and the windows of the texts, are looked at part by
    part, in an order that `seed` sets; `texts` what must have been scored; `rare` the share of
    windows in which damage must be met surely; `long` what is compared at long context."""

    perplexity_ratio: float
    mean_kl: float
    p99_kl: float
    top1_agreement: float
    accuracy_drop: float
    task_drop: float
    length_ratio: tuple[float, float]
    confidence: float
    divergence: Divergence
    items: dict[str, tuple[Items, Items]]
    texts: tuple[str, ...]
    quantized: bool
    rare: float | None = None
    sequential: bool = False
    seed: int = 0
    long: LongWindows | None = None

    @property
    def fractions(self) -> tuple[float, ...]:
        """Of the most items, at each look: equal parts if sequential, else doubling from the first
        draw to extension's cap."""
        if self.sequential:
            return tuple((look + 1) / LOOKS for look in range(LOOKS))
        pairs = [
            (asked, cap)
            for asked, cap in self.items.values()
            if not isinstance(asked, str) and not isinstance(cap, str)
        ]
        growth = max((cap / asked for asked, cap in pairs), default=1.0)
        return tuple(min(2**look / growth, 1.0) for look in range(1 + math.ceil(math.log2(growth))))

    def size(self, task: str, documents: int, look: int) -> int:
        """How many items of the task's draw a look has, the first being 0; `documents` is how many
        the task has."""
        asked, cap = (documents if count == "all" else count for count in self.items[task])
        return (
            max(1, round(cap * self.fractions[look]))
            if self.sequential
            else min(asked * 2**look, cap)
        )

    def look_at(self, scored: int, count: int) -> int:
        """Which look, the first being 0, has so many of a text's `count` windows. Raises ValueError
        if none has."""
        sizes = [
            len(first_windows(count, fraction, self.seed))
            for fraction in (self.fractions if self.sequential else (1.0,))
        ]
        if scored not in sizes:
            raise ValueError(f"{scored} windows were scored, expected {sizes[-1]}")
        return sizes.index(scored)

    def confidence_at(self, look: int) -> float:
        """Of one look, when all looks together are to have `confidence`."""
        return 1 - spending.errors(1 - self.confidence, self.fractions)[look]


def of(recipe: Recipe, variant: Variant) -> Limits:
    """The recipe's limits for a variant."""
    gate, evaluate = recipe.gate, recipe.evaluate
    caps = evaluate.extend_to if gate.on_inconclusive == "extend" else {}
    return Limits(
        **{name: getattr(gate, name)[variant.weights] for name in BY_WEIGHTS},
        length_ratio=(gate.length_ratio[0], gate.length_ratio[1]),
        confidence=gate.confidence,
        divergence=evaluate.divergence,
        items={name: (asked, caps.get(name, asked)) for name, asked in evaluate.items.items()},
        texts=tuple(evaluate.perplexity.texts),
        quantized=variant.quantizer is not None,
        rare=gate.rare,
        sequential=gate.sequential,
        seed=evaluate.seed,
        long=evaluate.long_windows(recipe.serve.max_model_len),
    )


def unseen(windows: int, confidence: float) -> float:
    """The largest share of windows that can be damaged while, more often than 1 - confidence, none
    of those drawn is.

    No interval can know of what no window showed: damage in 2 % of the windows misses all of 64 in
    27 of 100 cases."""
    return 1 - math.pow(1 - confidence, 1 / windows)


def windows_for(rare: float, confidence: float) -> int:
    """How many windows meet damage in this share of them at least once, with this confidence."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - rare))


def status(low: float, high: float, limit: float) -> Status:
    if high <= limit:
        return "PASS"
    return "FAIL" if low > limit else "INCONCLUSIVE"


def worst(statuses: Iterable[Status]) -> Status:
    """FAIL where there is none."""
    found = set(statuses)
    if "FAIL" in found or not found:
        return "FAIL"
    return "INCONCLUSIVE" if "INCONCLUSIVE" in found else "PASS"


def words(outcome: Status) -> str:
    return {
        "PASS": "within",
        "FAIL": "beyond",
        "INCONCLUSIVE": "the data cannot tell whether it is within",
    }[outcome]


def failed(asked: Question, limit: float, method: str, reason: str) -> Check:
    return _without_figures(asked, "FAIL", limit, method, reason)


def not_measured(asked: Question, method: str, reason: str) -> Check:
    """Neither passes nor fails."""
    return _without_figures(asked, "INCONCLUSIVE", math.nan, method, reason)


def _without_figures(
    asked: Question, outcome: Status, limit: float, method: str, reason: str
) -> Check:
    nan = math.nan
    return Check(
        **asked._asdict(),
        status=outcome,
        value=nan,
        low=nan,
        high=nan,
        limit=limit,
        n=0,
        method=method,
        reason=reason,
    )
