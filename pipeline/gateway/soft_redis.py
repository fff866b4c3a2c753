"""Bytes in Redis, which may fail in any way: what it does not say at once is as if it were not
there, and it is left alone for a while. It comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from pipeline.errors import SetupError

ANSWER_S = 0.3  # with what it takes to connect
PAUSE_S = 3.0  # after a failure


class Outage:
    """Said when it begins and when it ends."""

    def __init__(self, what: str) -> None:
        self._what, self._on, self._until = what, False, 0.0

    def lasts(self) -> bool:
        """Whether nobody should try. Once in PAUSE_S one caller may, for all."""
        now = time.monotonic()
        if self._on and now >= self._until:
            self._until = now + PAUSE_S
            return False
        return self._on

    def began(self, why: str) -> None:
        if not self._on:
            print(f"quantgate: {self._what} ({why})", file=sys.stderr, flush=True)
        self._on, self._until = True, time.monotonic() + PAUSE_S

    def ended(self) -> None:
        if self._on:
            print(f"quantgate: no longer: {self._what}", file=sys.stderr, flush=True)
        self._on = False


class SoftRedis:
    """`where`: the URL without what may be a password."""

    def __init__(self, url: str, password: str | None) -> None:
        """Does not connect yet. Raises SetupError for a URL that is none."""
        self.where = _without_password(url)
        self._gone = Outage(f"the cache {self.where} fails")
        # What is full, or a replica, still says what it has.
        self._refusing = Outage(f"the cache {self.where} takes no answers")
        try:
            if password and "password" in parse_url(url):
                raise SetupError("cache: found a password_file and a password in url. Leave one.")
            self._client = redis.asyncio.Redis.from_url(
                url,
                password=password,
                socket_timeout=None,  # _tried has one
                retry=Retry(NoBackoff(), 0),
                # With 3 redis-py believes in a connection that the server has closed meanwhile.
                protocol=2,
                driver_info=None,
            )
        except ValueError:  # whose text may have a part of the password
            raise SetupError(
                f"cache: url: found {self.where!r}, expected redis://HOST:PORT/DATABASE (in a user"
                " name or password / ? # @ are written as %2F %3F %23 %40)"
            ) from None

    async def get(self, name: str) -> bytes | None:
        """None: not there; empty: there is something, and no bytes."""
        try:
            value = await self._tried(lambda: self._client.get(name), self._gone)
        except _NoBytes:
            return b""
        return value if value is None or isinstance(value, bytes) else b""

    async def set(self, name: str, value: bytes, ttl_s: int) -> None:
        if not self._refusing.lasts():
            await self._tried(lambda: self._client.set(name, value, ex=ttl_s), self._refusing)

    async def memory(self) -> tuple[int, int]:
        """Bytes that are used and their limit; 0 where it is not known."""
        found = await self._tried(lambda: self._client.info("memory"), self._gone)
        try:
            return int(found["used_memory"]), int(found["maxmemory"])
        except (KeyError, TypeError, ValueError):
            return 0, 0

    async def close(self) -> None:
        with contextlib.suppress(RedisError, OSError):  # TimeoutError is one of the latter
            async with asyncio.timeout(ANSWER_S):
                await self._client.aclose()

    async def _tried(self, work: Callable[[], Awaitable[Any]], refusal: Outage) -> Any:
        """None after a failure; `refusal`: what it is if Redis answers that it will not."""
        if self._gone.lasts():
            return None
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await work()
        except Exception as error:  # of redis-py, the system, or of what speaks another protocol
            if isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE"):
                raise _NoBytes from error
            # Its text may have the password: Redis repeats words that it does not know.
            why = f"{type(error).__name__}; it is tried again every {PAUSE_S:g} s"
            (refusal if isinstance(error, ResponseError) else self._gone).began(why)
            return None
        self._gone.ended()
        refusal.ended()
        return answer


class _NoBytes(Exception):
    """Under this name is a list, a set or the like."""


def _without_password(url: str) -> str:
    """Also where it is written as no URL should be."""
    scheme, _, rest = url.partition("://")
    place, _, options = rest.partition("?")
    return f"{scheme}://{'...' if '@' in options else place.rpartition('@')[2]}"
