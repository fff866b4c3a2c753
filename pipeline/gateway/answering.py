"""One request to its answer: tier after tier, until one has answered or none is left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic

import aiohttp

from pipeline.gateway import relay, routing
from pipeline.gateway.accounts import Accounts
from pipeline.gateway.asked import Asked
from pipeline.gateway.attempt import Errand, Try
from pipeline.gateway.deploy_file import Model
from pipeline.gateway.flight import Flight
from pipeline.gateway.routing import Need
from pipeline.gateway.tier import Tier
from pipeline.serving.problems import Problem

WAIT_S = 5.0  # for a tier that takes requests, before a client is told that there is none
PAUSE_S = 0.1  # between looks whether there is
RETRY_AFTER_S = 2
ILL = ("late", "failed", "broke off")  # ends that speak against the server
PASSING = ("failed", "busy")  # ends after which the same tier may be asked again


class Answering:
    """Of one model. `tiers` in the order in which they are preferred."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        settings: Model,
        session: aiohttp.ClientSession,
        accounts: Accounts,
    ) -> None:
        self.tiers, self.settings = tiers, settings
        self._session, self._accounts = session, accounts

    async def answer(self, asked: Asked, flight: Flight) -> tuple[Tier, Try]:
        """Who answered, and how. Raises Problem where nobody does."""
        left, ends = list(self.tiers), dict[str, Try]()
        kept: tuple[Tier, Try] | None = None  # no good answer, and better than none
        last: Tier | None = None
        while tier := await self._next(left, asked, patient=kept is None):
            if last is not None:
                self._accounts.went_on(last, tier, asked, ends[last.name])
            done = ends[tier.name] = await self._try(tier, left, asked, flight)
            if flight.begun:
                return tier, done
            last = tier
            left.remove(tier)
            if done.end == "clients":
                kept = tier, done
                break
            if done.end == "not enough":
                kept = tier, done
                left = [one for one in left if self._rank(one) > self._rank(tier)]
            elif done.end == "too long":
                kept = kept or (tier, done)
            if not left and kept is None and self._in_time(asked):
                left = [one for one in self.tiers if ends[one.name].end in PASSING]
                await asyncio.sleep(PAUSE_S)
        if kept is None:
            raise _nobody(ends)
        tier, done = kept
        done.give(Errand(tier, asked, flight, [], 0))
        return kept

    async def _next(self, left: Sequence[Tier], asked: Asked, patient: bool) -> Tier | None:
        """Whom to ask; `patient`: waits for somebody."""
        while left:
            if able := routing.order(left, _now(asked), monotonic()):
                return able[0]
            if not patient or not self._in_time(asked):
                return None
            await asyncio.sleep(PAUSE_S)
        return None

    async def _try(self, tier: Tier, left: Sequence[Tier], asked: Asked, flight: Flight) -> Try:
        now = monotonic()
        others = [one for one in left if one is not tier and one.takes_requests(now)]
        patience_s = routing.patience_s(tier, others, _now(asked), whole=not asked.stream)
        rules = self.settings.escalate if self._rank(tier) + 1 < len(self.tiers) else []
        errand = Errand(tier, asked, flight, rules, patience_s)
        tier.breaker.tried(now)
        begun = tier.device.begin(now)
        done = Try("gave up", "the client hung up")
        try:
            done = await relay.ask(self._session, errand)
        finally:
            device_s = tier.device.end(begun, monotonic())
            self._accounts.tried(tier, asked, done, device_s)
        if done.end in ILL:
            tier.breaker.failed(monotonic())
        else:
            tier.breaker.succeeded()
        tier.counted(asked.need.prompt_bytes, done.prompt_tokens)
        return done

    def _rank(self, tier: Tier) -> int:
        return self.tiers.index(tier)

    def _in_time(self, asked: Asked) -> bool:
        return asked.spent_ms < 1000 * WAIT_S


def _now(asked: Asked) -> Need:
    """What is left of the target."""
    if asked.need.target_ms is None:
        return asked.need
    return replace(asked.need, target_ms=asked.need.target_ms - asked.spent_ms)


def _nobody(ends: dict[str, Try]) -> Problem:
    if ends and all(done.end == "busy" for done in ends.values()):
        after = max(1, round(min(done.retry_after_s or 1 for done in ends.values())))
        return Problem(
            429,
            "rate_limit_error",
            f"All servers are busy. Try again in {after} s.",
            code="queue_full",
            headers={"Retry-After": str(after)},
        )
    said = "; ".join(f"{name}: {done.end}" for name, done in ends.items())
    return Problem(
        503,
        "service_unavailable_error",
        f"No server could answer ({said or 'none takes requests now'}).",
        code="no_tier",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
