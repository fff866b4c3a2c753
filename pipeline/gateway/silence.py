"""Tells a server that is slow from one that hangs: the slow one gives others their answers."""

from __future__ import annotations


class Silence:
    """Times are those of time.monotonic."""

    def __init__(self) -> None:
        self._since: float | None = None

    def asked(self, now: float) -> None:
        """A request goes to the server."""
        if self._since is None:
            self._since = now

    def broken(self) -> None:
        """The server has given some of an answer, whosever it is; or an error, which tells more
        than silence does."""
        self._since = None

    def seconds(self, now: float) -> float:
        """For how long requests have gone there and nothing came back."""
        return 0.0 if self._since is None else now - self._since
