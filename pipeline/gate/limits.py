"""What the gate holds an artifact to: the recipe's limits for its precision, and what must have been measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.recipe import BY_WEIGHTS, Divergence, Items, Recipe, Variant
from pipeline.records import Check, Status

VIEWS = ("deployed", "weights")
FLOORS = 3  # a limit must lie this many noise floors above what the unquantized model measures on the same engine


@dataclass(frozen=True)
class Limits:
    """perplexity_ratio over the reference's; mean_kl and p99_kl in nats per token; drops and top1_agreement as shares.

    `items` gives, for each task, the items that must have been measured, and the most that may be (extension); `texts`
    what must have been scored; `rare` the share of windows in which damage must be met surely.
    """

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

    @property
    def looks(self) -> int:
        """How often the accuracy may be looked at while items are added (each time twice as many), the first included."""
        growth = [cap / asked for asked, cap in self.items.values() if not isinstance(asked, str) and not isinstance(cap, str)]
        return 1 + math.ceil(math.log2(max(growth, default=1)))

    @property
    def shared_confidence(self) -> float:
        """Of one look at the items, when all looks together are to have `confidence` (Bonferroni)."""
        return 1 - (1 - self.confidence) / self.looks


def of(recipe: Recipe, variant: Variant) -> Limits:
    """The recipe's limits for a variant."""
    gate, evaluate = recipe.gate, recipe.evaluate
    caps = evaluate.extend_to if gate.on_inconclusive == "extend" else {}
    return Limits(
        **{name: getattr(gate, name)[variant.weights] for name in BY_WEIGHTS},
        length_ratio=(gate.length_ratio[0], gate.length_ratio[1]),
        confidence=gate.confidence,
        divergence=evaluate.divergence,
        items={name: (asked, caps.get(name, asked)) for name, asked in evaluate.tasks.items()},
        texts=tuple(evaluate.perplexity.texts),
        quantized=variant.quantizer is not None,
        rare=gate.rare,
    )


def unseen(windows: int, confidence: float) -> float:
    """The largest share of windows that can be damaged while, more often than 1 - confidence, none of those drawn is.

    No interval can know of what no window showed: damage in 2 % of the windows misses all of 64 in 27 of 100 cases.
    """
    return 1 - math.pow(1 - confidence, 1 / windows)


def windows_for(rare: float, confidence: float) -> int:
    """How many windows meet damage in this share of them at least once, with this confidence."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - rare))


def status(low: float, high: float, limit: float) -> Status:
    if high <= limit:
        return "PASS"
    return "FAIL" if low > limit else "INCONCLUSIVE"


def words(found: Status) -> str:
    return {"PASS": "within", "FAIL": "beyond", "INCONCLUSIVE": "the data cannot tell whether it is within"}[found]


def failed(name: str, limit: float, method: str, reason: str) -> Check:
    nan = math.nan
    return Check(name=name, status="FAIL", value=nan, low=nan, high=nan, limit=limit, n=0, method=method, reason=reason)
