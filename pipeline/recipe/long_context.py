"""Divergence at positions that the windows of the texts do not reach, up to serve.max_model_len.

A cache or a rotation that is right for short prompts can be wrong for long ones: scales that
saturate, an attention window."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Annotated

from pydantic import Field

from pipeline.recipe.base import MOST, Strict

LEAST = 8  # windows: with fewer, even a divergence at half its limit is not surely within it


class LongContext(Strict):
    """Compares positions of every span: those that evaluate.perplexity.window has, then as many
    again, twice as many, ..."""

    windows: Annotated[
        int,
        Field(
            ge=LEAST,
            le=MOST,
            description="of each text, as long as serve.max_model_len, or all that it has",
        ),
    ] = 16
    positions: Annotated[
        int,
        Field(
            ge=8,
            le=MOST,
            description="of each span and window; each costs 4 bytes x vocabulary on disk",
        ),
    ] = 32


@dataclass(frozen=True)
class LongWindows:
    """Windows of `length` tokens, joined from consecutive ones of `short` tokens; `bos`: each
    begins with BOS."""

    plan: LongContext
    short: int
    length: int
    bos: bool

    def available(self, windows: int) -> int:
        """How many long windows a text of `windows` short ones has."""
        return windows * (self.short - self.bos) // (self.length - self.bos)

    def chosen(self, windows: int) -> list[int]:
        """Which of them are compared, spread evenly."""
        count = self.available(windows)
        wanted = min(count, self.plan.windows)
        return [place * count // wanted for place in range(wanted)]

    def joined(self, windows: list[list[int]]) -> list[list[int]]:
        """All long windows of a text, as token ids."""
        front = windows[0][: self.bos]
        ids = list(chain.from_iterable(window[self.bos :] for window in windows))
        size = self.length - self.bos
        return [
            [*front, *ids[start : start + size]]
            for start in range(0, self.available(len(windows)) * size, size)
        ]

    @property
    def spans(self) -> list[range]:
        """Positions by how much stands before them: as many as a short window has, then
        doubling."""
        scored, starts = self.length - 1, [0, self.short]
        while 2 * starts[-1] < scored:
            starts.append(2 * starts[-1])
        return [
            range(start, stop) for start, stop in zip(starts, [*starts[1:], scored], strict=True)
        ]

    def compared(self, span: range) -> list[int]:
        """Which positions of a span are compared, spread evenly."""
        wanted = min(len(span), self.plan.positions)
        return [span[place * len(span) // wanted] for place in range(wanted)]

    @property
    def places(self) -> list[int]:
        """All positions that are compared."""
        return [place for span in self.spans for place in self.compared(span)]
