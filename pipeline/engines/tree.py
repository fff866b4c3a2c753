"""Prompts that begin alike as one row of tokens: a tree, in which every token sees its own
ancestors alone.

Tree attention as in SpecInfer (arXiv 2305.09781, section 4.2): the shared beginning is computed
once, each branch goes on from it at the position that it has in its own prompt, and a mask keeps
the branches out of each other's sight."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.engines import Prompt
from pipeline.engines.scoring import common, families

# tokens of a tree, or twice its first prompt's: attention within a row grows with the square of its
# length
LONGEST = 1024


class Tree:
    """`tokens` and `positions` of a row; `paths` has the places in the row of each prompt's tokens,
    by the prompt's number."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.paths: dict[int, list[int]] = {}
        self._branches: list[tuple[list[int], list[int]]] = []  # places seen, places added
        self._last: list[int] = []

    def fits(self, ids: list[int]) -> bool:
        longest = max(LONGEST, 2 * len(next(iter(self.paths.values()), [])))
        return len(self.tokens) + len(ids) - common(self._last, ids) <= longest

    def add(self, number: int, ids: list[int]) -> None:
        """Prompts come in the order of their tokens, so that what a prompt shares it shares with
        the last one."""
        shared = common(self._last, ids)
        seen = next(reversed(self.paths.values()), [])[:shared]
        own = list(range(len(self.tokens), len(self.tokens) + len(ids) - shared))
        self.tokens += ids[shared:]
        self.positions += range(shared, len(ids))
        self.paths[number] = seen + own
        self._branches.append((seen, own))
        self._last = ids

    @property
    def branches(self) -> bool:
        return len(self.paths) > 1

    def sees(self, length: int) -> np.ndarray:
        """bool [length, length]: which places each place attends to. Places behind the row's end
        see themselves."""
        sees = np.eye(length, dtype=bool)
        for seen, own in self._branches:
            if own:
                begin, end = own[0], own[-1] + 1
                sees[begin:end, seen] = True
                sees[begin:end, begin:end] = np.tri(len(own), dtype=bool)
        return sees


def trees(prompts: list[Prompt], shared: bool) -> list[Tree]:
    """All prompts, each in one tree; alone in it if nothing is to be `shared`."""
    made: list[Tree] = []
    for family in families(prompts):
        tree = Tree()
        for number in family:
            ids = prompts[number].ids
            if tree.paths and not (shared and tree.fits(ids)):
                made.append(tree)
                tree = Tree()
            tree.add(number, ids)
        made.append(tree)
    return made


def batches(rows: list[Tree], tokens: int) -> Iterator[list[Tree]]:
    """Trees in batches of at most so many tokens with the padding (or one tree), shortest first."""
    batch: list[Tree] = []
    for tree in sorted(rows, key=lambda tree: len(tree.tokens)):
        if batch and len(tree.tokens) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch
