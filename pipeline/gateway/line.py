"""Requests of one model that wait for a place, first come, first served."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.gateway.tier import Tier

LOOK_S = 0.1  # between looks whether a tier takes requests again for another reason than a place


@dataclass(frozen=True, eq=False)
class _Waiting:
    """One request: when it came, by time.monotonic, and the tiers of which any will do."""

    arrived: float
    tiers: Sequence[Tier]
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class Line:
    """A request keeps its place by when it came, however often it has been sent away."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []

    def has_turn(self, arrived: float, tier: Tier) -> bool:
        """Whether nobody who came earlier waits for this tier."""
        first = self._first(tier)
        return first is None or arrived <= first.arrived

    def moved(self, tiers: Sequence[Tier]) -> None:
        """A place may have become free, or been taken with more behind it: who is first looks."""
        for first in map(self._first, tiers):
            if first is not None:
                first.woken.set()

    async def wait(self, arrived: float, tiers: Sequence[Tier]) -> None:
        """Until it is time to look again whether there is a place."""
        with self._joined(_Waiting(arrived, tiers)) as waiting:
            try:
                await asyncio.wait_for(waiting.woken.wait(), LOOK_S)
            except TimeoutError:
                return

    def _first(self, tier: Tier) -> _Waiting | None:
        return next((one for one in self._waiting if tier in one.tiers), None)

    @contextmanager
    def _joined(self, waiting: _Waiting) -> Iterator[_Waiting]:
        bisect.insort(self._waiting, waiting, key=lambda one: one.arrived)
        try:
            yield waiting
        finally:
            self._waiting.remove(waiting)
