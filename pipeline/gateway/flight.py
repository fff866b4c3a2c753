"""One answer on its way, to one client or to several that asked the same at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, Self


class Flight:
    """Filled by a task of its own: `begin`, `add`, and it ends with the task. Whoever reads gets
    all of it, in order, at their own pace. The task is stopped once nobody reads any more, and
    the flight is `abandoned`: nobody may join it then. `outcome`: what it came to, as a status,
    once it is over: 502 if it broke off after it had begun."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self.abandoned = False
        self.outcome = 0
        self._readers = 0
        self._over = False
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def landed(cls, headers: Mapping[str, str], body: bytes) -> Self:
        """An answer that is there already."""
        flight = cls()
        flight.begin(200, headers)
        flight.add(body)
        flight.outcome, flight._over = flight.status, True
        return flight

    @property
    def begun(self) -> bool:
        return self.status > 0

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.create_task(self._fill(work))

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.status, self.headers = status, dict(headers)
        self._tell()

    def add(self, part: bytes) -> None:
        if part:
            self.parts.append(part)
            self._tell()

    def join(self) -> None:
        """Counts one more reader, who must `read` or `leave`."""
        self._readers += 1

    def leave(self) -> None:
        self._readers -= 1
        if not self._readers and self._task is not None:
            self.abandoned = True
            self._task.cancel()

    async def ready(self) -> None:
        """Until it has begun. Raises what ended it before."""
        while not self.begun and not self._over:
            await self._news.wait()
        if not self.begun:
            raise self._error or RuntimeError("an answer that never began")

    async def over(self) -> None:
        """Until nothing more comes, for whatever reason."""
        while not self._over:
            await self._news.wait()

    async def read(self) -> AsyncIterator[bytes]:
        """All of it, from the first part on, with what came meanwhile in one piece. Raises what
        ended it too early."""
        sent = 0
        try:
            while sent < len(self.parts) or not self._over:
                if fresh := self.parts[sent:]:
                    sent += len(fresh)
                    yield b"".join(fresh)
                else:
                    await self._news.wait()
            if self._error:
                raise self._error
        finally:
            self.leave()

    async def _fill(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # for whoever reads
            self._error = error
        finally:
            self._over = True
            self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
