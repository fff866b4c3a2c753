"""The manifests for Kubernetes: what they say, and that its schemas take them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.gateway.files import (
    commands,
    kubernetes,
)
from tests.deployments import (
    checked,
    loaded,
    manifests,
    planned,
    pod,
)
from tests.deployments import written as put

KUBERNETES = ("1.29", "1.37")


def test_manifests_of_kubernetes(tmp_path: Path) -> None:
    shop = planned(tmp_path)
    files = kubernetes.files(shop)
    found = manifests(files)
    assert {kind for kind, _ in found} == {
        "ConfigMap",
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "PersistentVolumeClaim",
        "NetworkPolicy",
    }
    for name in ("chat-bot-edge", "chat-bot-cloud", "redis", "gateway"):
        spec = pod(files, name)
        assert spec["securityContext"]["runAsNonRoot"], name
        assert not spec["automountServiceAccountToken"], name
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"], name
            assert not security["allowPrivilegeEscalation"], name
            assert container["resources"]["limits"]["memory"], name
    container = pod(files, "chat-bot-edge")["containers"][0]
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "2048Mi"}
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert (
        pod(files, "chat-bot-cloud")["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
        == "1"
    )
    starting = container["startupProbe"]
    assert starting["periodSeconds"] * starting["failureThreshold"] == commands.START_S
    probes = pod(files, "gateway")["containers"][0]
    assert probes["livenessProbe"]["httpGet"]["path"] == "/live"


def test_a_tier_is_scaled_by_what_waits(tmp_path: Path) -> None:
    files = kubernetes.files(planned(tmp_path))
    found = manifests(files)
    for name, metric in (
        ("edge", "quantgate_requests_waiting"),
        ("cloud", "vllm_num_requests_waiting"),
    ):
        scaler = found["HorizontalPodAutoscaler", f"quantgate-chat-bot-{name}"]["spec"]
        assert scaler["scaleTargetRef"]["name"] == f"quantgate-chat-bot-{name}"
        assert scaler["metrics"][0]["pods"]["metric"] == {"name": metric}
        assert scaler["metrics"][0]["pods"]["target"]["averageValue"] == "4"  # of 8 at once
        deployment = found["Deployment", f"quantgate-chat-bot-{name}"]["spec"]
        assert "replicas" not in deployment  # it would be set back with each apply
    rules = loaded(files["prometheus-adapter-values.yaml"])[0]["rules"]["custom"]
    assert [rule["name"]["as"] for rule in rules] == [
        "quantgate_requests_waiting",
        "vllm_num_requests_waiting",
    ]


@pytest.mark.parametrize("kind", ["Service", "Deployment", "PodDisruptionBudget", "NetworkPolicy"])
def test_selectors_find_their_pods(kind: str, tmp_path: Path) -> None:
    found = manifests(kubernetes.files(planned(tmp_path)))
    shown = [
        one["spec"]["template"]["metadata"]["labels"]
        for (of, _), one in found.items()
        if of == "Deployment"
    ]
    for (of, name), one in found.items():
        if of != kind:
            continue
        spec = one["spec"]
        selector = spec.get("podSelector") or spec["selector"]
        labels = selector.get("matchLabels", selector)
        assert sum(labels.items() <= pods.items() for pods in shown) == 1, name


def test_every_name_that_a_pod_uses_is_there(tmp_path: Path) -> None:
    """Volumes, the configuration, the claim; and a step makes each Secret."""
    shop = planned(tmp_path)
    files = kubernetes.files(shop)
    found, steps = manifests(files), "\n".join(kubernetes.steps(shop))
    for name in ("chat-bot-edge", "chat-bot-cloud", "redis", "gateway"):
        spec = pod(files, name)
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            for mount in container["volumeMounts"]:
                assert mount["name"] in volumes, (name, mount)
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in found
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert ("PersistentVolumeClaim", claim) in found
            for source in volume.get("projected", {}).get("sources", []):
                assert f"secret generic {source['secret']['name']} --from-file=key=" in steps


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_schema(version: str, tmp_path: Path) -> None:
    made = kubernetes.files(planned(tmp_path))
    out = put(made, tmp_path / "out")
    names_of = loaded(made["kustomization.yaml"])[0]["resources"]
    words = ("--strict", "-k", version)
    files = [str(out / name) for name in names_of]
    done = checked("kubernetes_validate", *words, *files)
    assert done.returncode == 0, done.stdout + done.stderr
    gateway = out / "gateway.yaml"
    gateway.write_text(gateway.read_text().replace("readinessProbe", "readyProbe"))
    assert checked("kubernetes_validate", *words, str(gateway)).returncode


def test_kustomize_builds_it(tmp_path: Path) -> None:
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl here")
    made = kubernetes.files(planned(tmp_path))
    out = put(made, tmp_path / "out")
    done = subprocess.run(
        ["kubectl", "kustomize", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    built = {(one["kind"], one["metadata"]["name"]) for one in loaded(done.stdout)}
    assert built == set(manifests(made))
