"""`quantgate gateway deploy.yaml`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import aiohttp
from fastapi import FastAPI

from pipeline.gateway import app, approved, cache, deploy_file, watch
from pipeline.gateway.accounts import Accounts
from pipeline.gateway.clients import Clients
from pipeline.gateway.deploy_file import Deploy
from pipeline.gateway.gateway import Gateway
from pipeline.gateway.ledger import Ledger
from pipeline.gateway.metrics import Metrics
from pipeline.gateway.tier import Tier
from pipeline.release import deploy as deploying
from pipeline.serving import listening

CONNECT_S = 2.0
IDLE_S = 4.0  # a connection is kept; servers close theirs after 5


def run(path: Path) -> None:
    """Until it is stopped. Raises Tampered or Rejected before anything is started, RecipeError,
    SetupError."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    deploy = deploy_file.load(path)
    deploying.require_free(deploy.listen.host, deploy.listen.port)
    with ExitStack() as bundles:
        tiers = {
            model: [
                _tier(bundles, deploy, model, name, settings) for name, settings in of.tiers.items()
            ]
            for model, of in deploy.models.items()
        }
        asyncio.run(serve(deploy, tiers))


def _tier(
    bundles: ExitStack, deploy: Deploy, model: str, name: str, settings: deploy_file.Tier
) -> Tier:
    opened = bundles.enter_context(approved.opened(settings, Path(deploy.policy)))
    key = deploying.read_key(Path(settings.key_file)) if settings.key_file else None
    return Tier(model, name, settings, opened, key=key)


async def serve(deploy: Deploy, tiers: dict[str, list[Tier]]) -> None:
    """Listens while the servers load."""
    host, port = deploy.listen.host, deploy.listen.port
    async with opened(deploy, tiers) as application:
        print(f"listening on http://{host}:{port} (Ctrl-C stops it)", file=sys.stderr, flush=True)
        await listening.server(application, host, port).serve()


@contextlib.asynccontextmanager
async def opened(deploy: Deploy, tiers: dict[str, list[Tier]]) -> AsyncIterator[FastAPI]:
    """The gateway, with all that it keeps running."""
    async with AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=connector, timeout=timeout)
        )
        ledger = Ledger(Path(deploy.usage))
        stack.callback(ledger.close)
        store = cache.open_store(deploy.cache)
        if store is not None:
            stack.push_async_callback(store.close)
        gateway = Gateway(
            deploy,
            tiers,
            session,
            Clients(deploy.keys, ledger),
            store,
            Accounts(Metrics(), ledger, deploy.currency),
        )
        watching = [
            asyncio.create_task(watch.keep(tier, session, deploy.recheck_s, deploy.drain_s))
            for tier in gateway.tiers
        ]
        stack.push_async_callback(_stopped, watching)
        yield app.make(gateway, ledger)


async def _stopped(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
