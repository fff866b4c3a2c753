"""What the pods of Kubernetes have in common, and that of a tier's server."""

from __future__ import annotations

import math
from typing import Any

from pipeline.gateway.files import commands, image, settings, size
from pipeline.gateway.files.image import ANYWHERE, HOME, PORT, USER
from pipeline.gateway.files.plan import Bundle, Plan, Server
from pipeline.gateway.files.settings import FOLDER, MODELS

PREFIX = "quantgate-"
KEYS = "/run/secrets/quantgate"
CONFIG = f"{PREFIX}config"
REGISTRY = f"{PREFIX}registry"  # a Secret of environment variables; there may be none
REGISTRY_ENVIRONMENT = [{"secretRef": {"name": REGISTRY, "optional": True}}]
KEY = "key"  # in each Secret, the one entry
READ_BY_GROUP = 0o440
POD_SECURITY: dict[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,  # by which it reads the secrets
    "seccompProfile": {"type": "RuntimeDefault"},
}
SECURITY: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
TEMPORARY = {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}
AT_TEMPORARY = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108 (in the container)
MODELS_VOLUME, CACHE_VOLUME, CONFIG_VOLUME, KEYS_VOLUME = "models", "cache", "config", "keys"
CACHE_SIZE = "8Gi"  # of what engines compile
START_PERIOD_S = 10
FETCHING = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}}


def mib(size_bytes: int) -> str:
    return f"{size_bytes // size.MIB}Mi"


def labels(component: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "quantgate", "app.kubernetes.io/component": component}


def mount(name: str, path: str, read_only: bool = True) -> dict[str, Any]:
    return {"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})}


def config_volume() -> dict[str, Any]:
    """Mounted whole: only so does a changed policy reach what runs."""
    return {"name": CONFIG_VOLUME, "configMap": {"name": CONFIG}}


def models_volume(bundle: Bundle) -> dict[str, Any]:
    """Lives as long as the pod: a server that is started again finds its bundle."""
    needed = 1.1 * bundle.size_bytes + size.GIB
    room = f"{math.ceil(needed / size.GIB)}Gi"
    return {"name": MODELS_VOLUME, "emptyDir": {"sizeLimit": room}}


def cache_volume() -> dict[str, Any]:
    return {"name": CACHE_VOLUME, "emptyDir": {"sizeLimit": CACHE_SIZE}}


def fetching(plan: Plan, one: Server) -> dict[str, Any]:
    """The container that runs first."""
    return {
        "name": "fetch",
        "image": image.name(plan, image.target(one)),
        "command": ["/bin/sh", "-c", commands.fetch(one.bundle)],
        "envFrom": REGISTRY_ENVIRONMENT,
        "resources": FETCHING,
        "securityContext": SECURITY,
        "volumeMounts": [
            mount(MODELS_VOLUME, MODELS, read_only=False),
            mount(CACHE_VOLUME, HOME, read_only=False),
            mount(CONFIG_VOLUME, FOLDER),
            AT_TEMPORARY,
        ],
    }


def probe(path: str, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def starting(path: str) -> dict[str, Any]:
    """Long enough for a large model to be checked, loaded and compiled."""
    return probe(path, START_PERIOD_S, commands.START_S // START_PERIOD_S)


def pod(component: str, metrics_port: int, stop_s: int, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {
            "labels": labels(component),
            # by which a Prometheus that looks for it finds what to scrape
            "annotations": {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": str(metrics_port),
                "prometheus.io/path": "/metrics",
            },
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": POD_SECURITY,
            "terminationGracePeriodSeconds": stop_s,
            **spec,
        },
    }


# A pod that ends is still asked for a moment, until all have heard that it is gone.
LAST_REQUESTS = {"preStop": {"exec": {"command": ["sleep", "5"]}}}


def server(plan: Plan, one: Server) -> dict[str, Any]:
    assert one.key
    key_file = f"{KEYS}/{one.key}"
    container = {
        "name": "server",
        "image": image.name(plan, image.target(one)),
        "args": commands.serve(settings.fetched(one.bundle), ANYWHERE, PORT, key_file),
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": _resources(one),
        "securityContext": SECURITY,
        "startupProbe": starting(commands.HEALTH),
        "readinessProbe": probe(commands.HEALTH, 5, 2),
        "livenessProbe": probe(commands.HEALTH, 10, 6),
        "lifecycle": LAST_REQUESTS,
        "volumeMounts": [
            mount(MODELS_VOLUME, MODELS),
            mount(CACHE_VOLUME, HOME, read_only=False),
            mount(CONFIG_VOLUME, FOLDER),
            mount(KEYS_VOLUME, KEYS),
            AT_TEMPORARY,
            *([_AT_SHARED] if one.bundle.engine == "vllm" else []),
        ],
    }
    volumes = [
        models_volume(one.bundle),
        cache_volume(),
        config_volume(),
        keys_volume([one.key]),
        TEMPORARY,
        *([_SHARED] if one.bundle.engine == "vllm" else []),
    ]
    spec = {
        "initContainers": [fetching(plan, one)],
        "containers": [container],
        "volumes": volumes,
    }
    return pod(one.label, PORT, commands.STOP_S + 10, spec)


# What vLLM's processes exchange; its pages count as the pod's memory.
_SHARED = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}
_AT_SHARED = {"name": "shm", "mountPath": "/dev/shm"}  # noqa: S108 (in the container)


def keys_volume(secrets: list[str]) -> dict[str, Any]:
    sources = [
        {"secret": {"name": name_of(secret), "items": [{"key": KEY, "path": secret}]}}
        for secret in secrets
    ]
    return {"name": KEYS_VOLUME, "projected": {"defaultMode": READ_BY_GROUP, "sources": sources}}


def name_of(secret: str) -> str:
    return f"{PREFIX}{secret}"


def _resources(one: Server) -> dict[str, Any]:
    """Asked for and limited alike, so that no neighbour takes what was measured."""
    bundle, limits = one.bundle, {}
    if bundle.cores:
        limits["cpu"] = str(bundle.cores)
    if bundle.memory_bytes:
        limits["memory"] = mib(bundle.memory_bytes)
    gpu = {"nvidia.com/gpu": "1"} if image.has_gpu(one) else {}
    return {"requests": limits, "limits": {**limits, **gpu}}
