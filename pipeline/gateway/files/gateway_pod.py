"""The pods of the gateway and of its Redis."""

from __future__ import annotations

from typing import Any

from pipeline.gateway.files import commands, image, pods, size
from pipeline.gateway.files.image import GATEWAY, GATEWAY_PORT, HOME
from pipeline.gateway.files.plan import REDIS_HOST, REDIS_PASSWORD, REDIS_PORT, Plan
from pipeline.gateway.files.settings import FOLDER, USAGE

REDIS_IMAGE = "redis:8-alpine"
USAGE_CLAIM = f"{pods.PREFIX}usage"


def gateway(plan: Plan) -> dict[str, Any]:
    """Of each bundle it fetches what speaks for the model, and no more."""
    deploy = plan.deploy
    mib = deploy.cache.most_mib if deploy.cache and deploy.cache.url == "memory" else 0
    memory = pods.mib(size.gateway_bytes(mib))
    container = {
        "name": GATEWAY,
        "image": image.name(plan, GATEWAY),
        "args": commands.gateway(),
        "envFrom": pods.REGISTRY_ENVIRONMENT,
        "ports": [{"name": "http", "containerPort": GATEWAY_PORT}],
        "resources": {"requests": {"cpu": "1", "memory": memory}, "limits": {"memory": memory}},
        "securityContext": pods.SECURITY,
        "startupProbe": pods.starting(commands.LIVE),
        # Not /health: where one model has no server, the others' clients are still answered.
        "readinessProbe": pods.probe(commands.LIVE, 5, 2),
        "livenessProbe": pods.probe(commands.LIVE, 10, 6),
        "lifecycle": pods.LAST_REQUESTS,
        "volumeMounts": [
            pods.mount(pods.CACHE_VOLUME, HOME, read_only=False),
            pods.mount(pods.CONFIG_VOLUME, FOLDER),
            pods.mount(pods.KEYS_VOLUME, pods.KEYS),
            pods.mount("usage", USAGE, read_only=False),
            pods.AT_TEMPORARY,
        ],
    }
    volumes = [
        pods.cache_volume(),
        pods.config_volume(),
        pods.keys_volume([secret.name for secret in plan.secrets]),
        {"name": "usage", "persistentVolumeClaim": {"claimName": USAGE_CLAIM}},
        pods.TEMPORARY,
    ]
    spec = {
        "containers": [container],
        "volumes": volumes,
    }
    return pods.pod(GATEWAY, GATEWAY_PORT, round(deploy.drain_s) + 15, spec)


def redis(plan: Plan) -> dict[str, Any]:
    cache = plan.deploy.cache
    assert cache
    secret = REDIS_PASSWORD if cache.password_file else None
    script = commands.redis(plan, f"{pods.KEYS}/{secret}" if secret else None)
    memory = pods.mib(size.redis_bytes(cache.most_mib))
    container = {
        "name": REDIS_HOST,
        "image": REDIS_IMAGE,
        "command": ["/bin/sh", "-c", script],
        "ports": [{"name": "redis", "containerPort": REDIS_PORT}],
        "resources": {"requests": {"cpu": "250m", "memory": memory}, "limits": {"memory": memory}},
        "securityContext": pods.SECURITY,
        "readinessProbe": {"tcpSocket": {"port": "redis"}, "periodSeconds": 5},
        "livenessProbe": {"tcpSocket": {"port": "redis"}, "periodSeconds": 10},
        "volumeMounts": [pods.mount(pods.KEYS_VOLUME, pods.KEYS)] if secret else [],
    }
    return {
        "metadata": {"labels": pods.labels(REDIS_HOST)},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": pods.POD_SECURITY,
            "containers": [container],
            "volumes": [pods.keys_volume([secret])] if secret else [],
        },
    }
