"""One request to its answer: tier after tier, until one has answered or none is left."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import monotonic

import aiohttp

from pipeline.gateway import relay, routing
from pipeline.gateway.accounts import Accounts
from pipeline.gateway.asked import Asked
from pipeline.gateway.attempt import Errand, Try
from pipeline.gateway.deploy_file import Model
from pipeline.gateway.flight import Flight
from pipeline.gateway.routing import Need, Patience
from pipeline.gateway.tier import Tier
from pipeline.serving.problems import Problem

WAIT_S = 5.0  # in all, while no tier takes requests, before a client is told that there is none
PAUSE_S = 0.1  # between looks whether there is
BUSY_S = 1.0  # at most, until a full server is asked again
RETRY_AFTER_S = 2
IMPATIENT_S = 5.0  # a client that waits less before it hangs up says nothing of the server


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
        wait = _Wait()
        while tier := await self._next(left, asked, None if kept and kept[1].good else wait):
            if last is not None and tier is not last:
                self._accounts.went_on(last, tier, asked, ends[last.name])
            blamed = tier.name in ends  # one request speaks against a server once
            with self._accounts.traces.attempt(tier):
                done = ends[tier.name] = await self._try(tier, left, asked, flight, blamed)
            if flight.begun:
                return tier, done
            last = tier
            left.remove(tier)
            if done.body is not None and (kept is None or not kept[1].good):
                kept = tier, done
            if done.end == "clients":
                break
            if done.end == "not enough":
                left = [one for one in left if self._rank(one) > self._rank(tier)]
            if not left and not (kept and kept[1].good) and wait.is_worth_it(ends):
                left = [one for one in self.tiers if ends[one.name].passing]
                await wait.pause()
        if kept is None or (kept[1].end == "not here" and self._may_pass(ends)):
            raise _nobody(ends, full=all(tier.busy_until > monotonic() for tier in self.tiers))
        tier, done = kept
        done.give(Errand(tier, asked, flight, [], Patience(0, fair=False)))
        return kept

    async def _next(self, left: Sequence[Tier], asked: Asked, wait: _Wait | None) -> Tier | None:
        """Whom to ask; None for nobody, after a wait for somebody."""
        while left:
            if able := routing.order(left, _remaining(asked), monotonic()):
                return able[0]
            if wait is None or wait.left_s <= 0:
                return None
            await wait.pause()
        return None

    async def _try(
        self, tier: Tier, left: Sequence[Tier], asked: Asked, flight: Flight, blamed: bool
    ) -> Try:
        now = monotonic()
        others = [one for one in left if one is not tier and one.takes_requests(now)]
        patience = routing.patience(tier, others, _remaining(asked), whole=not asked.stream)
        rules = self.settings.escalate if self._rank(tier) + 1 < len(self.tiers) else []
        tier.breaker.tried(now)
        begun = tier.device.begin(now)
        done = Try("gave up", "the client hung up")
        try:
            errand = Errand(tier, asked, flight, rules, patience)
            await relay.ask(self._session, errand, done)
        finally:
            ended = monotonic()
            if done.end == "gave up" and not flight.begun:
                done.ill = ended - now > max(IMPATIENT_S, patience.seconds / 2)
            if done.ill and not blamed:
                tier.breaker.failed(now, ended)
            elif not done.ill and done.end != "gave up":
                tier.breaker.succeeded()
            self._accounts.tried(tier, asked, done, tier.device.end(begun, ended))
        if done.end == "busy":
            tier.busy_until = ended + min(done.retry_after_s or BUSY_S, BUSY_S)
        tier.counted(asked.need.prompt_bytes, done.prompt_tokens)
        return done

    def _rank(self, tier: Tier) -> int:
        return self.tiers.index(tier)

    def _may_pass(self, ends: Mapping[str, Try]) -> bool:
        """Whether a tier that could take the request may take it later."""
        waiting = (done.passing or done.end == "late" for done in ends.values())
        unasked = (tier for tier in self.tiers if tier.name not in ends)
        return any(tier.is_approved for tier in unasked) or any(waiting)


class _Wait:
    """Of one request, until there is somebody to ask. Tries are no part of it."""

    def __init__(self) -> None:
        self.left_s = WAIT_S

    async def pause(self) -> None:
        await asyncio.sleep(PAUSE_S)
        self.left_s -= PAUSE_S

    def is_worth_it(self, ends: Mapping[str, Try]) -> bool:
        """Not for servers that are all full for longer than that, as they say."""
        full = [done.retry_after_s or 0 for done in ends.values() if done.end == "busy"]
        if len(full) == len(ends):
            return min(full) < self.left_s
        return self.left_s > 0


def _remaining(asked: Asked) -> Need:
    """What is left of the target."""
    if asked.need.target_ms is None:
        return asked.need
    return replace(asked.need, target_ms=asked.need.target_ms - asked.spent_ms)


def _end(done: Try) -> str:
    """What another server may take is said in the words of the one that does not."""
    said = relay.complaint(done.body) if done.end == "not here" and done.body else ""
    return f"{done.end}: {said}" if said else done.end


def _nobody(ends: dict[str, Try], full: bool) -> Problem:
    """`full`: so all servers have said, to this request or to another."""
    if all(done.end == "busy" for done in ends.values()) and (ends or full):
        after = max(1, round(min((done.retry_after_s or 1 for done in ends.values()), default=1)))
        return Problem(
            429,
            "rate_limit_error",
            f"All servers are busy. Try again in {after} s.",
            code="queue_full",
            headers={"Retry-After": str(after)},
        )
    said = "; ".join(f"{name}: {_end(done)}" for name, done in ends.items())
    return Problem(
        503,
        "service_unavailable_error",
        f"No server could answer ({said or 'none takes requests now'}).",
        code="no_tier",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
