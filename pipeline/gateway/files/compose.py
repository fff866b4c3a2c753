"""Docker Compose: each server, the gateway and Redis a service; a bundle is fetched once, into a
volume that they share."""

from __future__ import annotations

from shlex import quote
from typing import Any

from pipeline.gateway.files import commands, image, settings, size, text
from pipeline.gateway.files.image import ANYWHERE, GATEWAY, GATEWAY_PORT, HOME, PORT, USER
from pipeline.gateway.files.plan import REDIS_HOST, REDIS_PASSWORD, REDIS_PORT, Bundle, Plan, Server
from pipeline.gateway.files.settings import FOLDER, MODELS, USAGE, Place

FILE, CONFIG, SECRETS = "compose.yaml", "config", "secrets"
INSIDE, OUTSIDE = "inside", "outside"  # networks: of servers and Redis alone; to anywhere
REDIS_IMAGE = "redis:8-alpine"
REGISTRY = "registry.env"  # what the registry asks for, such as AWS_ACCESS_KEY_ID=...
HEADER = """\
Written by quantgate deploy-files. Memory and cores are limits from what was measured of each
artifact (docs/deploy.md says how)."""
_ENVIRONMENT = [{"path": REGISTRY, "required": False}]
HARDENED: dict[str, Any] = {
    "user": f"{USER}:{USER}",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "tmpfs": ["/tmp:size=64m"],  # noqa: S108 (in the container)
}


def files(plan: Plan) -> dict[str, str]:
    """Raises RecipeError for a deployment that only works on one machine."""
    settings.require_reachable(plan)
    given = settings.files(plan, _place())
    return {
        FILE: text.yaml(_dollars(document(plan)), HEADER),
        "Dockerfile": image.dockerfile(plan),
        **{f"{CONFIG}/{name}": content for name, content in given.items()},
    }


def steps(plan: Plan) -> list[str]:
    made = [
        f"cp {quote(str(secret.given.absolute()))} {SECRETS}/{secret.name}"
        if secret.given
        else f"openssl rand -hex 32 > {SECRETS}/{secret.name}"
        for secret in plan.secrets
    ]
    return [
        "pip wheel --no-deps --wheel-dir dist PROJECT  # PROJECT: quantgate's folder",
        f"mkdir -m 700 {SECRETS}",
        *made,
        # a container sees a secret as a file with the host's owner and mode
        f"chmod 444 {SECRETS}/*  # the folder keeps other users of this machine out",
        f"touch {REGISTRY} && chmod 600 {REGISTRY}  # what the registry asks for, NAME=VALUE",
        "docker compose up --build --detach --wait --wait-timeout 1800",
    ]


def _place() -> Place:
    return Place(
        secret=_secret,
        bundle=settings.on_disk,
        url=lambda server: f"http://{server.label}:{PORT}/v1",
        listen=(ANYWHERE, GATEWAY_PORT),
        redis=f"{REDIS_HOST}:{REDIS_PORT}",
    )


def _secret(name: str) -> str:
    return f"/run/secrets/{name}"


def document(plan: Plan) -> dict[str, Any]:
    services: dict[str, Any] = {_fetch_name(one): _fetch(plan, one) for one in plan.fetched}
    services |= {server.label: _server(plan, server) for server in plan.ours}
    if plan.has_redis:
        services[REDIS_HOST] = _redis(plan)
    services[GATEWAY] = _gateway(plan)
    volumes = ["models"] if plan.fetched else []
    volumes += ["usage", *(_cache(server.label) for server in plan.ours), _cache(GATEWAY)]
    secrets = {secret.name: {"file": f"./{SECRETS}/{secret.name}"} for secret in plan.secrets}
    return {
        "name": "quantgate",
        "services": services,
        "networks": {INSIDE: {"internal": True}, OUTSIDE: {}},
        "volumes": {name: {} for name in volumes},
        **({"secrets": secrets} if secrets else {}),
    }


def _fetch_name(bundle: Bundle) -> str:
    return f"fetch_{str(bundle.entry).replace('/', '_')}"


def _cache(name: str) -> str:
    return f"cache-{name}"


def _fetch(plan: Plan, bundle: Bundle) -> dict[str, Any]:
    """Runs once. Only it reaches the registry and writes to the volume."""
    return {
        **_built(plan, GATEWAY),
        **HARDENED,
        "entrypoint": ["/bin/sh", "-c", commands.fetch(bundle)],
        "env_file": _ENVIRONMENT,
        "networks": [OUTSIDE],
        "volumes": [f"models:{MODELS}", f"./{CONFIG}:{FOLDER}:ro", f"{_cache(GATEWAY)}:{HOME}"],
        "restart": "on-failure:3",
    }


def _built(plan: Plan, target: str) -> dict[str, Any]:
    return {"image": image.name(plan, target), "build": {"context": ".", "target": target}}


def _after(bundles: list[Bundle]) -> dict[str, Any]:
    waits = {
        _fetch_name(bundle): {"condition": "service_completed_successfully"}
        for bundle in bundles
        if not bundle.is_folder
    }
    return {"depends_on": waits} if waits else {}


def _models(bundles: list[Bundle]) -> list[str]:
    folders = [f"{one.source}:{settings.fetched(one)}:ro" for one in bundles if one.is_folder]
    fetched = any(not one.is_folder for one in bundles)
    return [*([f"models:{MODELS}:ro"] if fetched else []), *folders]


def _server(plan: Plan, server: Server) -> dict[str, Any]:
    assert server.key
    given = settings.fetched(server.bundle)
    is_vllm = server.bundle.engine == "vllm"
    return {
        **_built(plan, image.target(server)),
        **HARDENED,
        "command": commands.serve(given, ANYWHERE, PORT, _secret(server.key)),
        **_after([server.bundle]),
        "secrets": [server.key],
        "networks": [INSIDE],
        "volumes": [
            *_models([server.bundle]),
            f"./{CONFIG}:{FOLDER}:ro",
            f"{_cache(server.label)}:{HOME}",
        ],
        **({"shm_size": "1gb"} if is_vllm else {}),  # what its processes exchange
        "healthcheck": _health(PORT),
        "stop_grace_period": f"{commands.STOP_S}s",
        "restart": "unless-stopped",
        "deploy": {"resources": _resources(server)},
    }


def _health(port: int) -> dict[str, Any]:
    return {
        "test": ["CMD", *commands.probe(port)],
        "interval": "10s",
        "timeout": "5s",
        "retries": 3,
        "start_period": f"{commands.START_S}s",
        "start_interval": "2s",
    }


def _resources(server: Server) -> dict[str, Any]:
    bundle, limits = server.bundle, {}
    if bundle.cores:
        limits["cpus"] = str(bundle.cores)
    if bundle.memory_bytes:
        limits["memory"] = _mib(bundle.memory_bytes)
    gpu = {"devices": [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}
    return {"limits": limits, **({"reservations": gpu} if image.has_gpu(server) else {})}


def _mib(size_bytes: int) -> str:
    return f"{size_bytes // size.MIB}m"


def _gateway(plan: Plan) -> dict[str, Any]:
    """Takes requests while the servers still load: /health says of which models."""
    deploy = plan.deploy
    mib = deploy.cache.most_mib if deploy.cache and deploy.cache.url == "memory" else 0
    memory = _mib(size.gateway_bytes(mib))
    secrets = [secret.name for secret in plan.secrets]
    return {
        **_built(plan, GATEWAY),
        **HARDENED,
        "command": commands.gateway(),
        **_after(plan.fetched),
        **({"secrets": secrets} if secrets else {}),
        **({"env_file": _ENVIRONMENT} if settings.asks_registry(plan) else {}),
        "networks": [INSIDE, OUTSIDE],
        "ports": [f"{_published(deploy.listen.host)}{deploy.listen.port}:{GATEWAY_PORT}"],
        "volumes": [
            *_models([*plan.fetched, *plan.folders]),
            f"./{CONFIG}:{FOLDER}:ro",
            f"usage:{USAGE}",
            f"{_cache(GATEWAY)}:{HOME}",
        ],
        "healthcheck": _health(GATEWAY_PORT),
        "stop_grace_period": f"{round(deploy.drain_s) + 10}s",
        "restart": "unless-stopped",
        "deploy": {"resources": {"limits": {"cpus": "1", "memory": memory}}},
    }


def _published(host: str) -> str:
    """Reached as the file says: from this machine alone, unless it names another address."""
    if host in (ANYWHERE, "::"):
        return ""
    return f"[{host}]:" if ":" in host else f"{'127.0.0.1' if host == 'localhost' else host}:"


def _redis(plan: Plan) -> dict[str, Any]:
    assert plan.deploy.cache
    secret = REDIS_PASSWORD if plan.deploy.cache.password_file else None
    script = commands.redis(plan, _secret(secret) if secret else None)
    return {
        "image": REDIS_IMAGE,
        **HARDENED,
        "entrypoint": ["/bin/sh", "-c", script],
        **({"secrets": [secret]} if secret else {}),
        "networks": [INSIDE],
        "healthcheck": {
            "test": ["CMD-SHELL", "redis-cli ping | grep -E 'PONG|NOAUTH'"],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
        },
        "restart": "unless-stopped",
        "deploy": {
            "resources": {
                "limits": {
                    "cpus": "1",
                    "memory": _mib(size.redis_bytes(plan.deploy.cache.most_mib)),
                }
            }
        },
    }


def _dollars(value: Any) -> Any:
    """Compose takes $NAME for a variable of its own."""
    if isinstance(value, dict):
        return {key: _dollars(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_dollars(one) for one in value]
    return value.replace("$", "$$") if isinstance(value, str) else value
