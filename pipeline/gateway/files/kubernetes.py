"""Kubernetes: each tier a Deployment that is scaled by what waits, the gateway one, Redis one. Keys
are Secrets by name: their values are in no file that is written here."""

from __future__ import annotations

from shlex import quote
from typing import Any

from pipeline.errors import RecipeError
from pipeline.gateway.files import gateway_pod, image, pods, scaling, settings, text
from pipeline.gateway.files.image import ANYWHERE, GATEWAY, GATEWAY_PORT, PORT
from pipeline.gateway.files.plan import REDIS_HOST, REDIS_PORT, Plan, Server
from pipeline.gateway.files.pods import CONFIG, KEYS, PREFIX, labels
from pipeline.gateway.files.settings import Place

ADAPTER = "prometheus-adapter-values.yaml"
HEADER = "Written by quantgate deploy-files; docs/deploy.md says where limits come from."


def files(plan: Plan) -> dict[str, str]:
    """Raises RecipeError for a deployment that only works on one machine."""
    settings.require_reachable(plan)
    _require_published(plan)
    made = {
        "config.yaml": [_config(plan)],
        **{f"{one.label}.yaml": _server(plan, one) for one in plan.ours},
        **({f"{REDIS_HOST}.yaml": _redis(plan)} if plan.has_redis else {}),
        f"{GATEWAY}.yaml": _gateway(plan),
    }
    written = {name: text.documents(values, HEADER) for name, values in made.items()}
    if plan.ours:
        rules = "For the chart of prometheus-adapter: helm upgrade --values"
        written[ADAPTER] = text.yaml(scaling.adapter_rules(plan.ours), rules)
    together = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(made),
    }
    return {
        "kustomization.yaml": text.yaml(together, HEADER),
        **written,
        "Dockerfile": image.dockerfile(plan),
    }


def steps(plan: Plan) -> list[str]:
    made = []
    for secret in plan.secrets:
        create = f"kubectl create secret generic {pods.name_of(secret.name)}"
        create += f" --from-file={pods.KEY}="
        made.append(
            f"{create}{quote(str(secret.given.absolute()))}"
            if secret.given
            else f"openssl rand -hex 32 | {create}/dev/stdin"
        )
    pushes = [f"docker push {image.name(plan, target)}" for target in image.targets(plan)]
    return [
        "pip wheel --no-deps --wheel-dir dist PROJECT  # PROJECT: quantgate's folder",
        *image.builds(plan),
        *pushes,
        *made,
        f"kubectl create secret generic {pods.REGISTRY} --from-env-file=FILE  # what the registry"
        " asks for, NAME=VALUE a line; leave it out if that is nothing",
        "kubectl apply --kustomize .",
    ]


def _require_published(plan: Plan) -> None:
    """Raises RecipeError naming every bundle that no node of a cluster has."""
    wrong = [
        f"models.{server.model}.tiers.{server.name}.bundle: {server.bundle.source} is on this"
        " machine alone. Publish it where the cluster reaches it, and name that URL."
        for server in plan.servers
        if server.bundle.is_folder
    ]
    if wrong:
        raise RecipeError("\n".join(wrong))


def _place() -> Place:
    return Place(
        secret=lambda name: f"{KEYS}/{name}",
        bundle=lambda server: server.bundle.source,
        url=lambda server: f"http://{PREFIX}{server.label}:{PORT}/v1",
        listen=(ANYWHERE, GATEWAY_PORT),
        redis=f"{PREFIX}{REDIS_HOST}:{REDIS_PORT}",
    )


def _config(plan: Plan) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG, "labels": labels(GATEWAY)},
        "data": settings.files(plan, _place()),
    }


def _deployment(component: str, template: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{PREFIX}{component}", "labels": labels(component)},
        "spec": {**spec, "selector": {"matchLabels": labels(component)}, "template": template},
    }


def _service(component: str, port: int, name: str = "http") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{PREFIX}{component}", "labels": labels(component)},
        "spec": {
            "selector": labels(component),
            "ports": [{"name": name, "port": port, "targetPort": name}],
        },
    }


def _server(plan: Plan, one: Server) -> list[dict[str, Any]]:
    """How many pods there are is the autoscaler's to say."""
    return [
        _deployment(one.label, pods.server(plan, one)),
        _service(one.label, PORT),
        scaling.autoscaler(one),
        scaling.disruption(one),
    ]


def _gateway(plan: Plan) -> list[dict[str, Any]]:
    """One pod: what was used is in a file that one process writes."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": gateway_pod.USAGE_CLAIM, "labels": labels(GATEWAY)},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    template, alone = gateway_pod.gateway(plan), {"type": "Recreate"}
    return [
        claim,
        _deployment(GATEWAY, template, replicas=1, strategy=alone),
        _service(GATEWAY, plan.deploy.listen.port),
    ]


def _redis(plan: Plan) -> list[dict[str, Any]]:
    """Reached by the gateway alone."""
    only = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{PREFIX}{REDIS_HOST}", "labels": labels(REDIS_HOST)},
        "spec": {
            "podSelector": {"matchLabels": labels(REDIS_HOST)},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": labels(GATEWAY)}}]}],
        },
    }
    return [
        _deployment(REDIS_HOST, gateway_pod.redis(plan), replicas=1),
        _service(REDIS_HOST, REDIS_PORT, "redis"),
        only,
    ]
