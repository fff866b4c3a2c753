"""The gateway's own deploy.yaml, as it is read where it will run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pipeline import reading
from pipeline.errors import RecipeError
from pipeline.gateway.files import text
from pipeline.gateway.files.plan import (
    REDIS_PASSWORD,
    Bundle,
    Plan,
    Server,
    is_loopback,
)

DEPLOY, POLICY = "deploy.yaml", "policy.yaml"
FOLDER = "/etc/quantgate"  # where both lie
STATE = "/var/lib/quantgate"
MODELS = f"{STATE}/models"
USAGE = f"{STATE}/usage"
FILE = "usage.sqlite"
HEADER = "Written by quantgate deploy-files. Change the file it was made from, and write it anew."


@dataclass(frozen=True)
class Place:
    """Where things are on one target. `listen`: the gateway's address and port, `redis`: host and
    port of its own Redis; None: as the file has them."""

    secret: Callable[[str], str]
    bundle: Callable[[Server], str]
    url: Callable[[Server], str]
    listen: tuple[str, int] | None = None
    redis: str | None = None


def on_disk(server: Server) -> str:
    """A tier's bundle for a gateway that shares a disk with its servers. Of one that is served
    elsewhere it fetches by itself what speaks for the model, and no more."""
    bundle = server.bundle
    return fetched(bundle) if bundle.is_folder or server.is_ours else bundle.source


def asks_registry(plan: Plan) -> bool:
    """Whether such a gateway does."""
    return any(not one.is_ours and not one.bundle.is_folder for one in plan.servers)


def fetched(bundle: Bundle) -> str:
    """Where a bundle from a registry is put; each version has its own folder."""
    return f"{MODELS}/{bundle.entry}"


def files(plan: Plan, place: Place) -> dict[str, str]:
    """deploy.yaml, the policy, and the benchmarks that tiers name."""
    deploy = plan.deploy
    found = {
        DEPLOY: text.yaml(_deploy(plan, place), HEADER),
        POLICY: reading.text(Path(deploy.policy), RecipeError),
    }
    for server in plan.servers:
        if server.settings.benchmark:
            record = Path(server.settings.benchmark)
            found[_benchmark(server)] = reading.text(record, RecipeError)
    return found


def _benchmark(server: Server) -> str:
    return f"benchmark.{server.label}.json"


def _deploy(plan: Plan, place: Place) -> dict[str, Any]:
    deploy = plan.deploy
    said: dict[str, Any] = deploy.model_dump(mode="json", exclude_unset=True)
    if place.listen:
        said["listen"] = {"host": place.listen[0], "port": place.listen[1]}
    said["policy"] = POLICY
    said["usage"] = f"{USAGE}/{FILE}"
    for name, key in said.get("keys", {}).items():
        key["file"] = place.secret(plan.secret_of_client(name))
    for server in plan.servers:
        _tier(said["models"][server.model]["tiers"][server.name], server, place)
    if deploy.cache and place.redis and plan.has_redis:
        said["cache"]["url"] = urlunsplit(urlsplit(deploy.cache.url)._replace(netloc=place.redis))
    if deploy.cache and deploy.cache.password_file:
        said["cache"]["password_file"] = place.secret(REDIS_PASSWORD)
    return said


def _tier(tier: dict[str, Any], server: Server, place: Place) -> None:
    tier["bundle"] = place.bundle(server)
    if server.is_ours:
        tier["url"] = place.url(server)
    if server.key:
        tier["key_file"] = place.secret(server.key)
    if server.settings.benchmark:
        tier["benchmark"] = _benchmark(server)


def require_reachable(plan: Plan) -> None:
    """For a target in which each process has an address of its own. Raises RecipeError naming all
    that only holds on one machine."""
    wrong = [
        f"models.{server.model}.tiers.{server.name}.url: {server.settings.url} is the gateway's own"
        " machine there. Name the host as the gateway will reach it."
        for server in plan.servers
        if server.settings.url and is_loopback(urlsplit(server.settings.url).hostname)
    ]
    collector = plan.deploy.traces
    if collector and is_loopback(urlsplit(collector).hostname):
        wrong.append(
            f"traces: {collector} is the gateway's own machine there. Name the collector's host."
        )
    if not plan.deploy.keys:
        wrong.append(
            "keys: none, and the gateway listens for other machines there. Give each client one."
        )
    if plan.deploy.cache and plan.deploy.cache.url.startswith("unix:"):
        wrong.append("cache.url: a socket of this machine. Name Redis by redis://HOST:PORT/0.")
    if wrong:
        raise RecipeError("\n".join(wrong))
