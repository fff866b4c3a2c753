"""How many pods of a tier there are: by the requests that wait at each."""

from __future__ import annotations

from typing import Any

from pipeline.gateway.files.plan import Server
from pipeline.gateway.files.pods import PREFIX, labels

MOST = 4  # replicas: the reader's to change
STEADY_S = 300  # a pod that comes loads for minutes, so none leaves at once
# By engine: the series that says how many wait, and its name among Kubernetes' metrics, which have
# no colon.
WAITING = {
    "openvino": ("quantgate_requests_waiting", "quantgate_requests_waiting"),
    "vllm": ("vllm:num_requests_waiting", "vllm_num_requests_waiting"),
}


def autoscaler(one: Server) -> dict[str, Any]:
    """Another pod where as many wait, on average, as half of those that run at once."""
    name = f"{PREFIX}{one.label}"
    waiting = max(1, one.bundle.serve.max_num_seqs // 2)
    metric = {
        "metric": {"name": WAITING[one.bundle.engine][1]},
        "target": {"type": "AverageValue", "averageValue": str(waiting)},
    }
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "labels": labels(one.label)},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": 1,
            "maxReplicas": MOST,
            "metrics": [{"type": "Pods", "pods": metric}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": STEADY_S}},
        },
    }


def disruption(one: Server) -> dict[str, Any]:
    """Nodes are emptied one pod of a tier at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": f"{PREFIX}{one.label}", "labels": labels(one.label)},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels(one.label)}},
    }


def adapter_rules(servers: list[Server]) -> dict[str, Any]:
    """Values of prometheus-adapter's chart, by which the autoscalers find their metric."""
    engines = dict.fromkeys(one.bundle.engine for one in servers)
    return {"rules": {"custom": [_rule(*WAITING[engine]) for engine in engines]}}


def _rule(series: str, name: str) -> dict[str, Any]:
    return {
        "seriesQuery": f'{{__name__="{series}",namespace!="",pod!=""}}',
        "resources": {
            "overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}
        },
        "name": {"as": name},
        "metricsQuery": "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
    }
