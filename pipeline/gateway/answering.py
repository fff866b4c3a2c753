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
from pipeline.gateway.line import LOOK_S, Line
from pipeline.gateway.routing import Need, Patience
from pipeline.gateway.tier import Tier
from pipeline.serving.problems import Problem

WAIT_S = 5.0  # while no tier is up or all fail, before a client is told that there is none
BUSY_S = 1.0  # at most, until a full server is asked again
RETRY_AFTER_S = 2


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
        self._line = Line()

    async def answer(self, asked: Asked, flight: Flight) -> tuple[Tier, Try]:
        """Who answered, and how. Raises Problem where nobody does."""
        left, ends = list(self.tiers), dict[str, Try]()
        kept: tuple[Tier, Try] | None = None  # no good answer, and better than none
        last: Tier | None = None
        judged = set[str]()  # tiers that have had their try, as a full one has not
        wait = _Wait(self._line)
        while tier := await self._next(left, asked, None if kept and kept[1].good else wait):
            if last is not None and tier is not last:
                self._accounts.went_on(last, tier, asked, ends[last.name])
            again = tier.name in judged
            others = [] if again else [one for one in left if one is not tier]
            with self._accounts.traces.attempt(tier):
                done = ends[tier.name] = await self._try(tier, others, asked, flight, again)
            if flight.begun:
                return tier, done
            last = tier
            if done.end != "busy":  # else it is waited for, beside the others
                left.remove(tier)
                judged.add(tier.name)
            if done.body is not None and (kept is None or not kept[1].good):
                kept = tier, done
            if done.end == "clients":
                break
            if done.end == "not enough":
                left = [one for one in left if self._rank(one) > self._rank(tier)]
            if done.end == "busy" and self._is_vain(ends):
                break
            if not left and wait.paused_s < WAIT_S and not (kept and kept[1].good):
                left = [one for one in self.tiers if ends[one.name].passing]
                await wait.pause()
        if kept is None or (kept[1].end == "not here" and self._may_pass(ends)):
            raise _nobody(ends, full=all(tier.is_full(monotonic()) for tier in self.tiers))
        tier, done = kept
        done.give(Errand(tier, asked, flight, [], Patience(0, 0)))
        return kept

    async def _next(self, left: Sequence[Tier], asked: Asked, wait: _Wait | None) -> Tier | None:
        """Whom to ask; None for nobody, after a wait for somebody."""
        while left:
            ours = [tier for tier in left if self._line.has_turn(asked.arrived, tier)]
            if able := routing.order(ours, _remaining(asked), monotonic()):
                return able[0]
            if wait is None or wait.is_over(left):
                return None
            await wait.in_line(asked, left)
        return None

    async def _try(
        self, tier: Tier, others: Sequence[Tier], asked: Asked, flight: Flight, again: bool
    ) -> Try:
        """`others`: those left to go to in time. One request speaks against a server once, and
        leaves it in haste once."""
        now = monotonic()
        able = [one for one in others if one.takes_requests(now)]
        patience = routing.patience(tier, able, _remaining(asked), whole=not asked.stream)
        rules = self.settings.escalate if self._rank(tier) + 1 < len(self.tiers) else []
        tier.breaker.tried(now)
        tier.silence.asked(now)
        begun = tier.device.begin(now)
        self._line.moved(self.tiers)
        done = Try("gave up", "the client hung up")
        try:
            errand = Errand(tier, asked, flight, rules, patience)
            await relay.ask(self._session, errand, done)
        finally:
            ended = monotonic()
            self._accounts.tried(tier, asked, done, tier.device.end(begun, ended))
            _judge(tier, done, patience, ended, again)
            if done.ill and not again:
                tier.breaker.failed(now, ended)
            self._line.moved(self.tiers)
        tier.counted(asked.need.prompt_bytes, done.prompt_tokens)
        return done

    def _rank(self, tier: Tier) -> int:
        return self.tiers.index(tier)

    def _is_vain(self, ends: Mapping[str, Try]) -> bool:
        """Whether all servers that are up are full for longer than it is waited for one that is
        not, as they say."""
        up = [tier.name for tier in self.tiers if tier.is_up(monotonic())]
        said = [ends[name] for name in up if name in ends and ends[name].end == "busy"]
        return len(said) == len(up) and all((done.retry_after_s or 0) > WAIT_S for done in said)

    def _may_pass(self, ends: Mapping[str, Try]) -> bool:
        """Whether a tier that could take the request may take it later."""
        waiting = (done.passing or done.end == "late" for done in ends.values())
        unasked = (tier for tier in self.tiers if tier.name not in ends)
        return any(tier.is_approved for tier in unasked) or any(waiting)


def _judge(tier: Tier, done: Try, patience: Patience, ended: float, again: bool) -> None:
    """What a try that ended then says of the server."""
    if done.end in ("late", "gave up"):
        done.ill = tier.silence.seconds(ended) >= patience.silence_s
        in_haste = patience.seconds < patience.silence_s
        done.passing = not again and (in_haste or not done.ill)
    else:
        tier.silence.broken()
        if not done.ill:
            tier.breaker.succeeded()
    if done.end == "busy":
        tier.said_full(ended + min(done.retry_after_s or BUSY_S, BUSY_S))


class _Wait:
    """Of one request, until there is somebody to ask. Tries are no part of it."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._in_line_s = self.paused_s = 0.0

    async def in_line(self, asked: Asked, tiers: Sequence[Tier]) -> None:
        start = monotonic()
        await self._line.wait(asked.arrived, tiers)
        self._in_line_s += monotonic() - start

    async def pause(self) -> None:
        """Before servers that failed are asked again."""
        await asyncio.sleep(LOOK_S)
        self.paused_s += LOOK_S

    def is_over(self, tiers: Sequence[Tier]) -> bool:
        """For a place at one that is full as long as for an answer's beginning."""
        now = monotonic()
        up = [tier.settings.timeout_s for tier in tiers if tier.is_up(now)]
        return self._in_line_s >= max([WAIT_S, *up])


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
