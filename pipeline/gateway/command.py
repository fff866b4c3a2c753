"""`quantgate gateway deploy.yaml`."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import aiohttp
from fastapi import FastAPI

from pipeline.errors import DiskFull, QuantgateError, RegistryError, Rejected, SetupError
from pipeline.gateway import app, approved, cache, deploy_file, watch
from pipeline.gateway.accounts import Accounts
from pipeline.gateway.clients import Clients
from pipeline.gateway.deploy_file import Deploy
from pipeline.gateway.gateway import Gateway
from pipeline.gateway.ledger import Ledger
from pipeline.gateway.metrics import Metrics
from pipeline.gateway.tier import Tier
from pipeline.gateway.traces import Traces
from pipeline.release import deploy as deploying
from pipeline.serving import listening

CONNECT_S = 2.0
IDLE_S = 4.0  # a connection is kept; servers close theirs after 5


def run(path: Path) -> None:
    """Until it is stopped. A tier that is not, or no longer, approved or cannot be fetched is left
    out, where its model has another.

    Raises Tampered or Rejected before anything is started, RegistryError, RecipeError,
    SetupError."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    deploy = deploy_file.load(path)
    deploying.require_free(deploy.listen.host, deploy.listen.port, f"{path}: listen.port")
    _require_files(path, deploy)
    _raise_limit_of_files()
    with ExitStack() as bundles:
        opener = approved.Opener(bundles, Path(deploy.policy))
        tiers = {model: _tiers(opener, model, of) for model, of in deploy.models.items()}
        asyncio.run(serve(deploy, tiers))


def _require_files(path: Path, deploy: Deploy) -> None:
    """Raises SetupError naming every file of a key, and folder of a bundle, that is not there."""
    named = {f"keys.{name}.file": key.file for name, key in deploy.keys.items()}
    for model, of in deploy.models.items():
        for name, tier in of.tiers.items():
            if tier.key_file:
                named[f"models.{model}.tiers.{name}.key_file"] = tier.key_file
    missing = _without_bundle(path, deploy)
    missing += [
        f"{path}: {place}: found {file}, where no file is. Expected one that holds a bearer token,"
        f" one word: openssl rand -hex 32 > {file}"
        for place, file in named.items()
        if not Path(file).is_file()
    ]
    if missing:
        raise SetupError("\n".join(missing))


def _without_bundle(path: Path, deploy: Deploy) -> list[str]:
    return [
        f"{path}: models.{model}.tiers.{name}.bundle: found {tier.bundle}, where no folder is."
        " Expected a bundle's folder or URL. To have a published one here: quantgate fetch URL --to"
        f" {tier.bundle}"
        for model, of in deploy.models.items()
        for name, tier in of.tiers.items()
        if "://" not in tier.bundle and not Path(tier.bundle).is_dir()
    ]


def _tiers(opener: approved.Opener, model: str, of: deploy_file.Model) -> list[Tier]:
    tiers, refused = list[Tier](), list[QuantgateError]()
    for name, settings in of.tiers.items():
        try:
            opened = opener.opened(settings)
        except (DiskFull, Rejected, RegistryError) as error:
            refused.append(error)
            continue
        key = deploying.read_key(Path(settings.key_file)) if settings.key_file else None
        tiers.append(Tier(model, name, settings, opened, key=key))
    if not tiers:
        raise refused[0]
    for why in refused:
        print(f"{model}: goes on without a tier: {why}", file=sys.stderr, flush=True)
    return tiers


def _raise_limit_of_files() -> None:
    """Each request takes a connection on either side."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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
            aiohttp.ClientSession(
                connector=connector,
                timeout=timeout,
                cookie_jar=aiohttp.DummyCookieJar(),  # one client's is no other's
                headers={"Accept-Encoding": "identity"},
            )
        )
        ledger = Ledger(Path(deploy.usage))
        stack.callback(ledger.close)
        traces = Traces(deploy.traces)
        stack.push_async_callback(asyncio.to_thread, traces.close)
        store = cache.open_store(deploy.cache)
        if store is not None:
            stack.push_async_callback(store.close)
        clients = Clients(deploy.keys, ledger)
        accounts = Accounts(Metrics(), ledger, clients, traces, deploy.currency)
        gateway = Gateway(deploy, tiers, session, clients, store, accounts)
        watching = [
            asyncio.create_task(look)
            for tier in gateway.tiers
            for look in (
                watch.approval(tier, deploy.recheck_s),
                watch.server(tier, session, deploy.drain_s),
            )
        ]
        stack.push_async_callback(_stopped, watching)
        yield app.make(gateway, ledger)


async def _stopped(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
