"""The text of a continuation as its tokens come: whole characters only, up to a stop string."""

from __future__ import annotations

from collections.abc import Callable

Decode = Callable[[int], str]  # what a token adds to the text: nothing inside a character


class Continuation:
    """`stop`: strings that end the text and are no part of it."""

    def __init__(self, decode: Decode, stop: list[str]) -> None:
        self._decode, self._stop = decode, stop
        self._held = ""
        self.stopped = False

    def add(self, ids: list[int]) -> str:
        """What can be shown now: nothing that may become a stop string. What follows one is left
        out."""
        for token in ids:
            self._held += self._decode(token)
        places = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if places:
            self.stopped = True
            return self._held[: min(places)]
        keep = max((_beginning(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def rest(self) -> str:
        """What was held back, once no token follows."""
        return "" if self.stopped else self._held


def _beginning(text: str, stop: str) -> int:
    """The length of the longest end of the text that a stop string begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
