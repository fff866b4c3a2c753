"""What is to run: deploy.yaml, and what each tier's bundle, verified and approved now, says of
itself."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.engines.server import pinned
from pipeline.errors import RecipeError
from pipeline.gateway import deploy_file
from pipeline.gateway.deploy_file import Deploy, Tier
from pipeline.gateway.files import names, size
from pipeline.recipe import Serve
from pipeline.records import artifact
from pipeline.release import fetch
from pipeline.release.bundle import layout, serve_settings
from pipeline.release.bundle.check import Checked
from pipeline.release.registries import Entry
from pipeline.release.signoff import policy

REDIS_HOST, REDIS_PORT = "redis", 6379
REDIS_PASSWORD = "redis-password"  # noqa: S105 (the name of a secret)
SERVER_KEY, CLIENT_KEY = "server-key", "client-key"


@dataclass(frozen=True)
class Bundle:
    """`source`: a URL with its version, or an absolute folder. `memory_bytes` and `cores`: None
    where they were not measured."""

    source: str
    entry: Entry
    digest: str
    engine: str
    device: str
    serve: Serve
    size_bytes: int
    memory_bytes: int | None
    cores: int | None
    until: datetime.datetime | None

    @property
    def is_folder(self) -> bool:
        return "://" not in self.source

    @property
    def pinned(self) -> str:
        """The model's name that holds the digest."""
        return pinned(f"{self.entry.recipe}-{self.entry.variant}", self.digest)


@dataclass(frozen=True)
class Server:
    """A tier. `label`: its name wherever it runs."""

    label: str
    model: str
    name: str
    settings: Tier
    bundle: Bundle

    @property
    def is_ours(self) -> bool:
        """Started from these files; else it runs somewhere already."""
        return self.settings.url is None

    @property
    def key(self) -> str | None:
        """The secret that it asks for."""
        asks = self.is_ours or self.settings.key_file
        return f"{SERVER_KEY}.{self.label}" if asks else None


@dataclass(frozen=True)
class Secret:
    """`given`: the file that holds it; None: a new one is made."""

    name: str
    given: Path | None


@dataclass(frozen=True)
class Plan:
    deploy: Deploy
    servers: list[Server]
    secrets: list[Secret]
    image: str

    @property
    def ours(self) -> list[Server]:
        return [server for server in self.servers if server.is_ours]

    @property
    def fetched(self) -> list[Bundle]:
        """From a registry, for the servers that are started."""
        found = {one.bundle.source: one.bundle for one in self.ours if not one.bundle.is_folder}
        return list(found.values())

    @property
    def folders(self) -> list[Bundle]:
        """Of this machine."""
        found = {one.bundle.source: one.bundle for one in self.servers if one.bundle.is_folder}
        return list(found.values())

    @property
    def has_redis(self) -> bool:
        """A Redis of its own: one that the file looks for on this machine."""
        cache = self.deploy.cache
        if cache is None or not cache.url.startswith("redis://"):
            return False
        host = urlsplit(cache.url).hostname
        return host == REDIS_HOST or is_loopback(host)

    def secret_of_client(self, name: str) -> str:
        return f"{CLIENT_KEY}.{_clients(self.deploy)[(name,)]}"


def is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "localhost").is_loopback
    except ValueError:
        return host == "localhost"


def read(path: Path, image: str) -> Plan:
    """Raises RecipeError for a file that says something impossible; Tampered, Rejected or
    RegistryError for a bundle that may not be served now."""
    deploy = deploy_file.load(path)
    if wrong := [*_secrets_in(deploy), *_no_port(deploy)]:
        raise RecipeError("\n".join(f"{path}: {line}" for line in wrong))
    rules = policy.load(Path(deploy.policy))
    is_ours: dict[str, bool] = {}
    for _, _, tier in tiers_of(deploy):
        is_ours[tier.bundle] = is_ours.get(tier.bundle, False) or tier.url is None
    bundles: dict[str, Bundle] = {}
    for what, model in is_ours.items():
        with fetch.opened(what, rules, model=model) as (folder, checked):
            bundles[what] = _bundle(what, folder, checked)
    return of(deploy, bundles, image)


def of(deploy: Deploy, bundles: dict[str, Bundle], image: str) -> Plan:
    """`bundles`: by what deploy.yaml calls them."""
    tiers = {(model, name): tier for model, name, tier in tiers_of(deploy)}
    labels = names.labels(tiers)
    servers = [
        Server(labels[place], *place, tier, bundles[tier.bundle]) for place, tier in tiers.items()
    ]
    return Plan(deploy, servers, _secrets(deploy, servers), image)


def tiers_of(deploy: Deploy) -> list[tuple[str, str, Tier]]:
    return [
        (model, name, tier)
        for model, settings in deploy.models.items()
        for name, tier in settings.tiers.items()
    ]


def _bundle(what: str, folder: Path, checked: Checked) -> Bundle:
    records, entry = checked.records, checked.signed.entry
    settings = serve_settings.read(folder / layout.SERVE)
    return Bundle(
        source=_source(what, entry) if "://" in what else str(folder),
        entry=entry,
        digest=artifact.digest(records.manifest.files),
        engine=settings.engine,
        device=settings.device,
        serve=settings.serve,
        size_bytes=sum(file.size_bytes for file in checked.signed.files),
        memory_bytes=size.memory_bytes(records.benchmark, settings.serve),
        cores=size.cores(records.benchmark, settings.serve),
        until=checked.standing.until,
    )


def _source(url: str, entry: Entry) -> str:
    """With its version, so that what runs there is what was checked here. A registry that is a
    folder holds bundles as folders."""
    url = url.rstrip("/")
    url = url if url.endswith(f"/{entry}") else f"{url}/{entry.version}"
    return unquote(urlsplit(url).path) if url.startswith("file:") else url


def _secrets_in(deploy: Deploy) -> list[str]:
    """What would write a secret into a file."""
    urls = {f"models.{model}.tiers.{name}.bundle": t.bundle for model, name, t in tiers_of(deploy)}
    if deploy.cache:
        urls["cache.url"] = deploy.cache.url
    remedy = {"cache.url": "Put it into a file, and name that: password_file"}
    return [
        f"{key}: holds a password. {remedy.get(key, 'Give it by the environment')}."
        for key, url in urls.items()
        if "://" in url and urlsplit(url).password
    ]


def _no_port(deploy: Deploy) -> list[str]:
    return [] if deploy.listen.port else ["listen.port: 0 is any port. Name one."]


def _clients(deploy: Deploy) -> dict[names.Name, str]:
    return names.labels((name,) for name in deploy.keys)


def _secrets(deploy: Deploy, servers: list[Server]) -> list[Secret]:
    found = [
        Secret(f"{CLIENT_KEY}.{_clients(deploy)[(name,)]}", Path(key.file))
        for name, key in deploy.keys.items()
    ]
    for server in servers:
        if server.key:
            given = server.settings.key_file
            found.append(Secret(server.key, Path(given) if given else None))
    if deploy.cache and deploy.cache.password_file:
        found.append(Secret(REDIS_PASSWORD, Path(deploy.cache.password_file)))
    return found
