"""Who asks, and may they: API keys, how much of what each key may have, and what is left of it."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Any, Literal

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from pipeline.errors import SetupError
from pipeline.gateway.deploy_file import Budget, Key
from pipeline.gateway.ledger import Ledger
from pipeline.release.deploy import read_key
from pipeline.serving import problems
from pipeline.serving.problems import Problem

ANONYMOUS = "anonymous"
MINUTE_S = 60
COMPLETION_TOKENS = 16  # of /v1/completions where the request does not say
LIMITS = ("max_tokens", "max_completion_tokens")
Reason = Literal["requests", "tokens", "budget"]


@dataclass(frozen=True)
class Client:
    """`secret`: the digest of what it shows; empty where it need show nothing."""

    name: str
    key: Key | None
    secret: bytes = field(default=b"", repr=False)

    @property
    def scope(self) -> str | None:
        """Whose kept answers it may get; None for nobody's. A name alone is not enough: gateways
        that share a cache may give it to other clients."""
        # No key's name has a colon in it: one that is named `shared` shares nothing.
        kind = self.key.cache if self.key else "own"
        own = f"own:{self.name}:{self.secret.hex()}"
        return {"own": own, "shared": "shared", "off": None}[kind]


class Beyond(Problem):
    """429: a key's bound is reached. `reason` is for the metrics."""

    def __init__(
        self, reason: Reason, kind: str, code: str, message: str, headers: Mapping[str, str]
    ) -> None:
        super().__init__(429, kind, message, code=code, headers=headers)
        self.reason = reason


class Clients:
    """Counts in memory: each gateway by itself, and anew after a restart. Budgets are the
    ledger's."""

    def __init__(self, keys: Mapping[str, Key], ledger: Ledger) -> None:
        """Raises SetupError for a file that holds no key, or that of another one."""
        self._keys, self._ledger = keys, ledger
        self._known = [
            (secret, Client(name, keys[name], secret)) for secret, name in _by_secret(keys).items()
        ]
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._tokens = {
            name: _Bucket(key.tokens_per_minute)
            for name, key in keys.items()
            if key.tokens_per_minute
        }

    def who(self, authorization: str) -> Client:
        """By the header's value. Raises Problem (401)."""
        if not self._known:
            return Client(ANONYMOUS, None)
        kind, _, shown = authorization.partition(" ")
        found = _digest(shown.strip())
        # All of them each time: how long it takes says nothing of what is right.
        fitting = [client for secret, client in self._known if compare_digest(found, secret)]
        if kind.lower() != "bearer" or not fitting:
            raise problems.no_key()
        return fitting[0]

    async def admit(self, client: Client) -> None:
        """Counts a request. Raises Beyond; what was refused is not counted."""
        if client.key is None:
            return
        if client.key.budget:
            self._require_budget(client.name, client.key.budget)
        if bucket := self._tokens.get(client.name):
            _require_now("tokens", bucket.most, bucket.wait_s())
        if most := client.key.requests_per_minute:
            item = RateLimitItemPerMinute(most)
            if not await self._limiter.hit(item, client.name):
                window = await self._limiter.get_window_stats(item, client.name)
                _require_now("requests", most, max(window.reset_time - time.time(), 0.001))

    def used(self, client: Client, tokens: int) -> None:
        """Of prompt and answer, when the answer has ended."""
        if bucket := self._tokens.get(client.name):
            bucket.take(tokens)

    def budgets(self) -> Iterator[tuple[str, str, float]]:
        """The key's name, `soft` or `hard`, and the share of it that is spent."""
        for name, key in self._keys.items():
            if key.budget is None:
                continue
            spent = self._ledger.spent(name, key.budget.days)
            for bound, most in (("soft", key.budget.soft), ("hard", key.budget.hard)):
                if most is not None:
                    yield name, bound, spent / most if most else 1.0

    def _require_budget(self, name: str, budget: Budget) -> None:
        if budget.hard is None or self._ledger.spent(name, budget.days) < budget.hard:
            return
        headers = {"x-should-retry": "false"}  # of OpenAI's clients, which else try again at once
        until = "it has none"
        if day := self._ledger.below(name, budget.days, budget.hard):
            midnight = datetime.datetime.combine(day, datetime.time(), datetime.UTC)
            left_s = math.ceil(midnight.timestamp() - time.time())
            headers["Retry-After"] = str(max(left_s, MINUTE_S))
            until = f"there is room again from {day} 00:00 UTC"
        quota = "insufficient_quota"
        message = f"This API key's budget of {budget.days} days is spent: {until}."
        raise Beyond("budget", quota, quota, message, headers)


class _Bucket:
    """What is taken comes back evenly, `most` in a minute. Below nothing it is a debt: an answer's
    length is known when it has ended, which `limits` does not count (it refuses, and forgets)."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._left, self._at = float(most), time.monotonic()

    def take(self, tokens: int) -> None:
        self._fill()
        self._left -= tokens

    def wait_s(self) -> float:
        """Until there is one; 0 if there is."""
        self._fill()
        return max(1 - self._left, 0) * MINUTE_S / self.most

    def _fill(self) -> None:
        now = time.monotonic()
        self._left = min(self.most, self._left + (now - self._at) * self.most / MINUTE_S)
        self._at = now


def _require_now(reason: Reason, most: int, wait_s: float) -> None:
    """Raises Beyond if there is something to wait for."""
    if not wait_s:
        return
    whole_s = math.floor(wait_s) + 1
    raise Beyond(
        reason,
        "rate_limit_error",
        "rate_limit_exceeded",
        f"This API key may have {most} {reason} a minute. Try again in {whole_s} s.",
        {"Retry-After": str(whole_s)},
    )


def capped(client: Client, request: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which no answer may be longer than the key's max_tokens. Raises Problem (400) for a
    length that is no whole number: servers differ in what they make of it."""
    limited = dict(request)
    most = client.key.max_tokens if client.key else None
    if most is None:
        return limited
    given = [name for name in LIMITS if request.get(name) is not None]
    for name in given:
        if type(request[name]) is not int or request[name] < 1:
            raise problems.bad(f"{name}: expected a whole number from 1 up.", name)
        limited[name] = min(request[name], most)
    # A completion knows the first name alone, and is short without it.
    if "messages" not in request and "max_tokens" not in given:
        limited["max_tokens"] = min(COMPLETION_TOKENS, most)
    elif not given:
        limited["max_tokens"] = most
    return limited


def _by_secret(keys: Mapping[str, Key]) -> dict[bytes, str]:
    """The names; secrets as digests, of one length."""
    names: dict[bytes, str] = {}
    for name, key in keys.items():
        secret = _digest(read_key(Path(key.file)))
        if secret in names:
            raise SetupError(
                f"{key.file}: found the same key as in {keys[names[secret]].file}. Give each client"
                " its own, such as `openssl rand -hex 32` prints."
            )
        names[secret] = name
    return names


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
