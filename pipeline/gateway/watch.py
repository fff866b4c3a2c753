"""Looks after one tier: does its server run, does it serve the approved artifact, and is that still
approved?"""

from __future__ import annotations

import asyncio
import datetime
from time import monotonic

import aiohttp

from pipeline.engines.listed import Models
from pipeline.errors import QuantgateError
from pipeline.gateway import log
from pipeline.gateway.started import Started
from pipeline.gateway.tier import STARTING, Tier
from pipeline.runtime import crash

WHILE_UNREADY_S, WHILE_READY_S = 0.5, 2.0  # between looks at the server
CHECK_S = 10.0  # for reading policy and log
AGAIN_S = 2.0  # until what is not approved is looked at again
LASTS_S = 10.0  # without approval, before a server is stopped
TIMEOUT_S = 5.0
DRAINED_S = 0.2  # between looks whether it is


async def approval(tier: Tier, recheck_s: float) -> None:
    """Looks whether it is still approved, at once and again and again, until it is cancelled. What
    cannot be known in time is not approved."""
    while True:
        now = datetime.datetime.now(datetime.UTC)
        try:
            async with asyncio.timeout(CHECK_S):
                withdrawn = await asyncio.to_thread(tier.approved.withdrawn, now)
        except TimeoutError:
            withdrawn = f"cannot be checked within {CHECK_S:g} s"
        if withdrawn != tier.withdrawn:
            tier.withdrawn = withdrawn
            log.event("approval", tier, why=withdrawn or "approved again")
        await asyncio.sleep(recheck_s if withdrawn is None else min(recheck_s, AGAIN_S))


async def server(tier: Tier, session: aiohttp.ClientSession, drain_s: float) -> None:
    """Looks after its server, until it is cancelled; ends what it started."""
    watch = _Watch(tier, session, drain_s)
    tier.url = tier.settings.url or ""
    try:
        while True:
            try:
                await watch.once()
            except QuantgateError as error:
                _becomes(tier, str(error))
            except Exception as error:  # the others go on, and this one is looked at again
                _becomes(tier, f"cannot be looked after: {crash.place(error)}")
            await asyncio.sleep(WHILE_READY_S if tier.unready is None else WHILE_UNREADY_S)
    finally:
        await watch.stop()


class _Watch:
    """`_started`: the server, where the gateway starts it."""

    def __init__(self, tier: Tier, session: aiohttp.ClientSession, drain_s: float) -> None:
        self._tier, self._session, self._drain_s = tier, session, drain_s
        self._started: Started | None = None
        self._withdrawn_since: float | None = None

    async def once(self) -> None:
        tier = self._tier
        if not tier.is_approved:
            await self._withdraw()
            return
        self._withdrawn_since = None
        if self._started is None and tier.settings.url is None:
            self._started = Started(tier.approved.served, tier.approved.damage)
        unready = None
        if self._started is not None:
            unready = await asyncio.to_thread(self._started.keep_running, tier.unready is None)
            tier.url, tier.key = self._started.url, self._started.key
        _becomes(tier, unready or await _not_served(tier, self._session))

    async def _withdraw(self) -> None:
        """Ends the server once that has lasted: a file that could not be read for a moment is no
        reason to load for minutes."""
        self._withdrawn_since = self._withdrawn_since or monotonic()
        if self._started is not None and monotonic() - self._withdrawn_since > LASTS_S:
            _becomes(self._tier, STARTING)  # also if it is approved again meanwhile
            await _drained(self._tier, self._drain_s)
            await self.stop()

    async def stop(self) -> None:
        if self._started is not None:
            started, self._started = self._started, None
            await started.stop()


async def _drained(tier: Tier, drain_s: float) -> None:
    deadline = monotonic() + drain_s
    while tier.device.running and monotonic() < deadline:
        await asyncio.sleep(DRAINED_S)


def _becomes(tier: Tier, unready: str | None) -> None:
    if unready != tier.unready:
        was, tier.unready = tier.unready, unready
        log.event("tier", tier, ready=unready is None, why=unready or "ready", was=was)
        if unready is None:
            tier.breaker.succeeded()


async def _not_served(tier: Tier, session: aiohttp.ClientSession) -> str | None:
    """Why nothing may be sent there; None if it shows the digest of the approved artifact, under
    `digest` or in a name that ends in it. By that name it is asked from then on, so that a server
    that has exchanged its model refuses."""
    try:
        status, _ = await _got(tier, session, f"{tier.url.removesuffix('/v1')}/health")
        if status not in (200, 404):  # which not every server has
            return f"/health answers {status}"
        status, body = await _got(tier, session, f"{tier.url}/models")
        if status != 200:
            return f"/v1/models answers {status}"
        shown = Models.model_validate_json(body)
    except aiohttp.ClientConnectorError:
        return "does not answer (yet)"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return f"gives no list of models: {type(error).__name__}"
    pinned = shown.pinned(tier.approved.digest)
    if pinned is None:
        return f"shows no sha256:{tier.approved.digest}, which is approved, but {shown}"
    tier.asked_as = pinned
    return None


async def _got(tier: Tier, session: aiohttp.ClientSession, url: str) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {tier.key}"} if tier.key else {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with session.get(url, headers=headers, timeout=timeout, allow_redirects=False) as answer:
        return answer.status, await answer.read()
