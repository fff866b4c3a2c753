"""Makes tests/rayjob_schema.json of KubeRay's own definition of a RayJob, which is 1.4 MB:

    python -m tests.rayjob_schema ray.io_rayjobs.yaml VERSION > tests/rayjob_schema.json

without descriptions, without the pod templates, which Kubernetes' schemas check, and without what
our file does not use; all of it is refused there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

SOURCE = (
    "https://github.com/ray-project/kuberay, ray-operator/config/crd/bases/ray.io_rayjobs.yaml,"
    " Apache-2.0; trimmed by tests/rayjob_schema.py; version "
)
UNUSED = (
    "autoscalerOptions",
    "gcsFaultToleranceOptions",
    "headService",
    "networkPolicy",
    "status",
    "submitterConfig",
    "submitterPodTemplate",
)


def trimmed(node: Any) -> Any:
    if isinstance(node, list):
        return [trimmed(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    named = node.get("properties")
    if not isinstance(named, dict):
        return {key: trimmed(of) for key, of in node.items() if key != "description"}
    if "containers" in named.get("spec", {}).get("properties", {}):
        return {"type": "object"}
    kept = {name: trimmed(of) for name, of in named.items() if name not in UNUSED}
    rest = {
        key: trimmed(of) for key, of in node.items() if key not in ("description", "properties")
    }
    if not node.get("x-kubernetes-preserve-unknown-fields"):
        rest["additionalProperties"] = False
    return {**rest, "properties": kept}


def main(definition: str, version: str) -> None:
    versions = YAML(typ="safe", pure=True).load(Path(definition))["spec"]["versions"]
    schema = next(of["schema"]["openAPIV3Schema"] for of in versions if of["name"] == "v1")
    print(json.dumps({"$comment": SOURCE + version, **trimmed(schema)}, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
