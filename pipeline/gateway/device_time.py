"""How much of a server's time a request takes: while n run at once, each takes an n-th of it
(processor sharing; L. Kleinrock, Queueing Systems, 1976)."""

from __future__ import annotations


class DeviceTime:
    """Times are those of time.monotonic. The sum over all requests is the time that the server was
    not idle."""

    def __init__(self) -> None:
        self.running = 0
        self._each = 0.0  # what a request that runs from the beginning on would have taken
        self._at = 0.0

    def begin(self, now: float) -> float:
        """What `end` is to be given."""
        self._go_on(now)
        self.running += 1
        return self._each

    def end(self, begun: float, now: float) -> float:
        """Seconds of the server's time."""
        self._go_on(now)
        self.running -= 1
        return self._each - begun

    def _go_on(self, now: float) -> None:
        if self.running:
            self._each += (now - self._at) / self.running
        self._at = now
