"""All that one gateway holds, and a request's way through it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from time import monotonic, time

import aiohttp

from pipeline.gateway import asked as asking
from pipeline.gateway.accounts import CACHED, NOBODY, Accounts
from pipeline.gateway.answering import Answering
from pipeline.gateway.asked import Asked
from pipeline.gateway.attempt import Try
from pipeline.gateway.cache import Store
from pipeline.gateway.clients import Beyond, Client, Clients, capped
from pipeline.gateway.deploy_file import Deploy
from pipeline.gateway.flight import Flight
from pipeline.gateway.sharing import Sharing
from pipeline.gateway.tier import Tier
from pipeline.serving import problems
from pipeline.serving.backend import Busy
from pipeline.serving.guard import HUNG_UP
from pipeline.serving.problems import Problem

UNKNOWN = 500  # what nobody foresaw
MOST_OPEN = 2048  # requests whose answers are not there yet


class Gateway:
    """`tiers` by model, in the order of deploy.yaml."""

    def __init__(
        self,
        deploy: Deploy,
        tiers: Mapping[str, list[Tier]],
        session: aiohttp.ClientSession,
        clients: Clients,
        store: Store | None,
        accounts: Accounts,
    ) -> None:
        self.deploy, self.session, self.clients = deploy, session, clients
        self.started_at = int(time())
        self.models = {
            name: Answering(tiers[name], model, session, accounts)
            for name, model in deploy.models.items()
        }
        self._accounts, self._store = accounts, store
        self._sharing = Sharing(store, accounts.metrics)
        self._open = 0
        self._counting: set[asyncio.Task[None]] = set()

    @property
    def tiers(self) -> list[Tier]:
        return [tier for model in self.models.values() for tier in model.tiers]

    @property
    def ready(self) -> bool:
        """Whether each model has a tier that is up, be it full."""
        now = monotonic()
        return all(any(tier.is_up(now) for tier in model.tiers) for model in self.models.values())

    async def asked(
        self, path: str, headers: Mapping[str, str], client: Client, body: bytes
    ) -> Asked:
        """Raises Problem for what cannot be asked, or not by this client."""
        request, name = asking.model_of(body)
        if name not in self.models:
            raise problems.no_model(name, ", ".join(self.models))
        settings = self.models[name].settings
        asked = asking.make(
            path,
            capped(client, request),
            len(body),
            headers,
            settings,
            self.deploy.features,
            client,
        )
        try:
            await self.clients.admit(client)
        except Beyond as beyond:
            self._accounts.metrics.refused.labels(client.name, beyond.reason).inc()
            raise
        return asked

    async def flight(self, asked: Asked) -> Flight:
        """The answer on its way; the caller has joined it."""
        model = self.models[asked.model]
        flight, anothers = await self._sharing.flight(
            asked, list(model.tiers), lambda flight: self._answer(asked, flight)
        )
        if anothers:
            counting = asyncio.create_task(self._shared(asked, flight))
            self._counting.add(counting)
            counting.add_done_callback(self._counting.discard)
        return flight

    def responded(self, path: str, status: int) -> None:
        """To a request of whatever kind; `path` is its route's."""
        self._accounts.metrics.responses.labels(path, str(status)).inc()

    async def _shared(self, asked: Asked, flight: Flight) -> None:
        with self._accounts.traces.request(asked):
            await flight.over()
            self._accounts.ended(asked, CACHED, flight.outcome or HUNG_UP)

    async def _answer(self, asked: Asked, flight: Flight) -> tuple[Tier, Try]:
        with self._accounts.traces.request(asked):
            return await self._accounted(asked, flight)

    async def _accounted(self, asked: Asked, flight: Flight) -> tuple[Tier, Try]:
        place, status = NOBODY, HUNG_UP
        self._open += 1
        try:
            if self._open > MOST_OPEN:
                raise problems.busy(Busy(1))
            tier, done = await self.models[asked.model].answer(asked, flight)
            place, status = tier.name, 502 if done.end == "broke off" else flight.status
        except Problem as problem:
            status = problem.status
            raise
        except Exception:
            status = UNKNOWN
            raise
        finally:
            self._open -= 1
            flight.outcome = status
            self._accounts.ended(asked, place, status)
        return tier, done

    async def scraped(self) -> bytes:
        """For Prometheus, with what is so now."""
        metrics, now = self._accounts.metrics, monotonic()
        metrics.waiting.set(max(0, self._open - sum(tier.device.running for tier in self.tiers)))
        for tier in self.tiers:
            place = (tier.model, tier.name)
            metrics.in_flight.labels(*place).set(tier.device.running)
            metrics.ready.labels(*place).set(tier.is_up(now))
            metrics.breaker.labels(*place).set(tier.breaker.is_open(now))
            metrics.approved.labels(*place).set(_until(tier))
        if self._store is not None:
            used, limit = await self._store.size()
            metrics.cache_bytes.set(used)
            metrics.cache_limit.set(limit)
        for key, bound, share in self.clients.budgets():
            metrics.budget.labels(key, bound).set(share)
        return metrics.text()


def _until(tier: Tier) -> float:
    """When its approval ends or ended, in seconds of Unix time."""
    until = tier.approved.until
    if tier.withdrawn is not None:
        return min(until, datetime.now(UTC)).timestamp() if until else 0.0
    return until.timestamp() if until else float("inf")
