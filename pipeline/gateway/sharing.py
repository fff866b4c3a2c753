"""Equal requests share an answer: one that is kept, or one that is on its way (single flight)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from pipeline.gateway import cache
from pipeline.gateway.asked import Asked
from pipeline.gateway.attempt import Try, shown_of
from pipeline.gateway.cache import Kept, Store
from pipeline.gateway.flight import Flight
from pipeline.gateway.metrics import Metrics
from pipeline.gateway.tier import Tier

Work = Callable[[Flight], Coroutine[Any, Any, tuple[Tier, Try]]]


class Sharing:
    """`store`: None where nothing is kept, and nothing shared."""

    def __init__(self, store: Store | None, metrics: Metrics) -> None:
        self._store, self._metrics = store, metrics
        self._flying: dict[str, Flight] = {}
        self._puts: set[asyncio.Task[None]] = set()

    async def flight(self, asked: Asked, tiers: list[Tier], work: Work) -> tuple[Flight, bool]:
        """The answer, and whether it is another request's. The caller has joined it.

        Kept answers are those of artifacts that are approved now; `work` makes a new one."""
        if self._store is None or not _may_be_kept(asked):
            return self._new(asked, work, None), False
        key = _key("", asked)
        flight = await self._kept(asked, tiers, self._store)
        flying = self._flying.get(key)
        joined = flying is not None and not flying.abandoned
        outcome = "hit" if flight else "joined" if joined else "miss"
        self._metrics.cache.labels(asked.model, asked.feature, outcome).inc()
        if flight is None and joined:
            flight = flying
        if flight is None:
            return self._new(asked, work, key), False
        flight.join()
        return flight, True

    def _new(self, asked: Asked, work: Work, key: str | None) -> Flight:
        flight = Flight()
        flight.join()
        if key is not None:
            self._flying[key] = flight
        flight.start(self._fly(asked, flight, work, key))
        return flight

    async def _kept(self, asked: Asked, tiers: list[Tier], store: Store) -> Flight | None:
        for tier in tiers:
            if tier.is_approved:
                kept = await store.get(_key(tier.approved.digest, asked))
                if kept is not None:
                    shown = {**shown_of(tier, asked), "X-Quantgate-Cache": "hit"}
                    return Flight.landed({"Content-Type": kept.content_type, **shown}, kept.body)
        return None

    async def _fly(self, asked: Asked, flight: Flight, work: Work, key: str | None) -> None:
        try:
            tier, done = await work(flight)
            if key is not None and self._store is not None and done.end == "answered":
                kept = Kept(
                    flight.headers["Content-Type"],
                    flight.body,
                    done.prompt_tokens,
                    done.completion_tokens,
                )
                # by itself: nobody waits for it, and whoever hangs up does not stop it
                put = asyncio.create_task(self._store.put(_key(tier.approved.digest, asked), kept))
                self._puts.add(put)
                put.add_done_callback(self._puts.discard)
        finally:
            if key is not None and self._flying.get(key) is flight:
                del self._flying[key]


def _may_be_kept(asked: Asked) -> bool:
    if asked.client.scope is None:
        return False
    key = asked.client.key
    return cache.deterministic(asked.request) or bool(key and key.cache_sampled)


def _key(digest: str, asked: Asked) -> str:
    """`digest`: empty for whatever answers next."""
    of = digest or f"model {asked.model}"
    where = f"{asked.model} {asked.path}"  # the answer has the model's name in it
    return cache.key_of(of, where, asked.request, asked.client.scope or "")
