"""What of an evaluation is measured again: drawn with a seed that the approver's machine makes. On
both sides."""

from __future__ import annotations

import math
import random


def some(numbers: list[int], share: float, rng: random.Random) -> list[int]:
    """That share of the numbers, at least one if there are any; sorted."""
    return sorted(rng.sample(numbers, math.ceil(share * len(numbers))))


def span(count: int, share: float, rng: random.Random) -> tuple[int, int]:
    """A run of that share of a task's `count` items, from a drawn start: they stand in a drawn
    order already."""
    size = math.ceil(share * count)
    start = rng.randrange(count - size + 1)
    return start, start + size
