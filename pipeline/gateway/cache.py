"""Whole answers, kept for requests that are equal to earlier ones: in memory, or in Redis, where
several gateways share them. Without the store every answer is made anew: slower, not down."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cachetools import TTLCache
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from pipeline import reading
from pipeline.errors import SetupError
from pipeline.gateway.deploy_file import Cache
from pipeline.gateway.soft_redis import Outage, SoftRedis

KIB, MIB = 1024, 1024 * 1024
PREFIX = "quantgate:"
LARGEST_PASSWORD = 4096  # bytes
OVERHEAD_BYTES = 1024  # of an answer in memory, above its body
# About the client or the account, or said by the digest already.
OF_NO_MATTER = {
    "model",
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
}
# As good as absent, on every server. Temperature, top_p and their like are not: without them vLLM
# takes those of the model's generation_config.json.
DEFAULTS = {
    "n": "1",
    "echo": "false",
    "stream": "false",
    "presence_penalty": "0",
    "frequency_penalty": "0",
    "logit_bias": "{}",
}
REAL = {"temperature", "top_p", "min_p", "repetition_penalty"} | {
    name for name in DEFAULTS if name.endswith("_penalty")
}


class _Head(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    content_type: str
    prompt_tokens: NonNegativeInt
    completion_tokens: NonNegativeInt
    body_bytes: NonNegativeInt


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer as it went out; a streamed one with all its events."""

    content_type: str
    body: bytes
    prompt_tokens: int
    completion_tokens: int

    def to_bytes(self) -> bytes:
        """A line of JSON, then the body."""
        head = _Head(
            content_type=self.content_type,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            body_bytes=len(self.body),
        )
        return head.model_dump_json().encode() + b"\n" + self.body

    @classmethod
    def from_bytes(cls, data: bytes) -> Kept:
        """Raises ValueError for anything else than `to_bytes` makes."""
        line, _, body = data.partition(b"\n")
        head = _Head.model_validate_json(line)
        if len(body) != head.body_bytes:
            raise ValueError(f"found a body of {len(body)} bytes, expected {head.body_bytes}")
        return cls(head.content_type, body, head.prompt_tokens, head.completion_tokens)


class Store(Protocol):
    """Nothing in it raises because the store fails: what cannot be had is a miss."""

    async def get(self, key: str) -> Kept | None: ...

    async def put(self, key: str, kept: Kept) -> None:
        """An answer above the largest one's size is not kept."""

    async def size(self) -> tuple[int, int]:
        """Bytes that are used, and their limit: 0 where it is not known."""

    async def close(self) -> None: ...


def open_store(cache: Cache | None) -> Store | None:
    """Redis need not be there yet. Raises SetupError for a URL or password that cannot be used."""
    if cache is None:
        return None
    return Memory(cache) if cache.url == "memory" else Redis(cache)


class Memory:
    """Of one gateway; the answer that was not asked for the longest makes room."""

    def __init__(self, cache: Cache, timer: Callable[[], float] = time.monotonic) -> None:
        room = cache.most_mib * MIB
        self._most = min(cache.most_answer_kib * KIB, room - OVERHEAD_BYTES)
        self._kept: TTLCache[str, Kept] = TTLCache(room, cache.ttl_s, timer, _memory_bytes)

    async def get(self, key: str) -> Kept | None:
        return self._kept.get(key)

    async def put(self, key: str, kept: Kept) -> None:
        if len(kept.body) <= self._most:
            self._kept[key] = kept

    async def size(self) -> tuple[int, int]:
        return int(self._kept.currsize), int(self._kept.maxsize)

    async def close(self) -> None:
        self._kept.clear()


def _memory_bytes(kept: Kept) -> int:
    return len(kept.body) + OVERHEAD_BYTES


class Redis:
    """Of all gateways that use it. It bounds its own memory."""

    def __init__(self, cache: Cache) -> None:
        self._most, self._ttl_s = cache.most_answer_kib * KIB, cache.ttl_s
        self._redis = SoftRedis(cache.url, _password(cache))
        self._strange = Outage(f"the cache {self._redis.where} holds what is no answer")

    async def get(self, key: str) -> Kept | None:
        value = await self._redis.get(PREFIX + key)
        if value is None:
            return None
        owner, _, data = value.partition(b"\n")
        try:
            # Of another key: somebody moved it, or an answer of Redis came to the wrong question.
            if owner != key.encode():
                raise ValueError("of another key")
            kept = Kept.from_bytes(data)
        except ValueError:
            self._strange.began("it is made anew")
            return None
        self._strange.ended()
        return kept

    async def put(self, key: str, kept: Kept) -> None:
        if len(kept.body) <= self._most:
            value = key.encode() + b"\n" + kept.to_bytes()
            await self._redis.set(PREFIX + key, value, self._ttl_s)

    async def size(self) -> tuple[int, int]:
        """Of the whole server, which may hold more than answers."""
        return await self._redis.memory()

    async def close(self) -> None:
        await self._redis.close()


def _password(cache: Cache) -> str | None:
    if cache.password_file is None:
        return None
    path = Path(cache.password_file)
    password = reading.text(path, SetupError, LARGEST_PASSWORD).strip("\r\n")
    if not password or "\n" in password:
        raise SetupError(f"{path}: expected the password of Redis in one line.")
    return password


def key_of(digest: str, path: str, request: Mapping[str, Any], scope: str) -> str:
    """SHA-256 over all that decides an answer: the artifact's digest, the endpoint, the request,
    and `scope`, whose answers these are (clients.Client.scope)."""
    decisive = [
        [name, value]
        for name, value in sorted((name, _number(name, one)) for name, one in request.items())
        if name not in OF_NO_MATTER and value is not None and _text(value) != DEFAULTS.get(name)
    ]
    # Two halves of a character that stand alone are not that character.
    text = _text([digest, path, scope, decisive]).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()


def _number(name: str, value: Any) -> Any:
    """0.0 and 0 are the same temperature."""
    whole = name in REAL and isinstance(value, float) and value.is_integer()
    return int(value) if whole else value


def _text(value: Any) -> str:
    """In the order in which it was given below the top: a JSON schema's or a tool's properties are
    written, and answered, in theirs."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def deterministic(request: Mapping[str, Any]) -> bool:
    """Whether an equal request has an equal answer. Without a temperature OpenAI's is 1."""
    seed, temperature = request.get("seed"), request.get("temperature")
    return type(seed) is int or (type(temperature) in (int, float) and temperature == 0)
