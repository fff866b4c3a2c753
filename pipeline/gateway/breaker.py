"""Keeps requests from a server that fails, and lets one through now and then to see
(M. Nygard, Release It!, 2007: circuit breaker)."""

from __future__ import annotations

FAILURES = 3  # one after the other
FIRST_S, LONGEST_S = 1.0, 30.0


class Breaker:
    """Times are those of time.monotonic."""

    def __init__(self) -> None:
        self._failures = 0
        self._opened = self._until = 0.0
        self._open_s = FIRST_S

    def is_open(self, now: float) -> bool:
        """Whether no request may go there."""
        return now < self._until

    def tried(self, now: float) -> None:
        """A request goes there. After an outage it is alone until it is known how it ends."""
        if self._failures >= FAILURES:
            self._until = now + self._open_s

    def succeeded(self) -> None:
        self._failures, self._until, self._open_s = 0, 0.0, FIRST_S

    def failed(self, begun: float, now: float) -> None:
        """A request that began then has failed. What was under way when it opened is one outage,
        however many requests it hit."""
        if begun < self._opened:
            return
        self._failures += 1
        if self._failures >= FAILURES:
            self._opened, self._until = now, now + self._open_s
            self._open_s = min(2 * self._open_s, LONGEST_S)
