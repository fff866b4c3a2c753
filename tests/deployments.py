"""Deployments whose bundles are only said to be, for the tests of what is written of them."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.gateway import deploy_file
from pipeline.gateway.files import plan, systemd
from pipeline.gateway.files.plan import Bundle, Plan
from pipeline.recipe import Serve
from pipeline.release.registries import Entry
from pipeline.runtime import environments

SECRET = "do-not-write-me"
EDGE, CLOUD, LOCAL = "s3://models/tiny/ov-int8", "oci://host/team/tiny/gptq-int4/2", "../local"
SERVE = Serve(max_model_len=256, max_num_seqs=8, kv_cache_gib=1)
BUNDLES = {
    EDGE: Bundle(
        source=f"{EDGE}/1",
        entry=Entry("tiny", "ov-int8", "1"),
        digest="a" * 64,
        engine="openvino",
        device="cpu",
        serve=SERVE,
        size_bytes=3 * 10**9,
        memory_bytes=2 << 30,
        cores=4,
        until=None,
    )
}
BUNDLES[CLOUD] = replace(
    BUNDLES[EDGE],
    source=CLOUD,
    entry=Entry("tiny", "gptq-int4", "2"),
    digest="b" * 64,
    engine="vllm",
    device="cuda",
    memory_bytes=6 << 30,
)
BUNDLES[LOCAL] = replace(BUNDLES[EDGE], source="/home/me/a $model")
# What a shop has: a chatbot at its edge, the cloud behind it, and a server that runs already.
SHOP = f"""\
listen: {{host: 0.0.0.0, port: 8080}}
policy: policy.yaml
models:
  Chat.Bot:
    tiers:
      edge: {{bundle: '{EDGE}', price_per_hour: 0.2}}
      cloud: {{bundle: '{CLOUD}', timeout_s: 20}}
      other: {{bundle: '{EDGE}', url: 'http://other.internal:8000/v1', key_file: other.key}}
    latency_target_ms: 2000
keys:
  shop: {{file: shop.key, cache: shared, cache_sampled: true, budget: {{soft: 5, hard: 10}}}}
cache: {{url: 'redis://127.0.0.1:6379/2', password_file: redis.key, most_mib: 100}}
drain_s: 30
"""
LONE = f"policy: policy.yaml\nmodels: {{tiny: {{tiers: {{edge: {{bundle: '{LOCAL}'}}}}}}}}\n"


def planned(folder: Path, text: str = SHOP) -> Plan:
    """Of a deploy.yaml that stands in the folder, with the files that it names."""
    (folder / "policy.yaml").write_text("approvals: 1\n")
    for name in ("shop.key", "other.key", "redis.key"):
        (folder / name).write_text(SECRET)
    (folder / "deploy.yaml").write_text(text)
    deploy = deploy_file.load(folder / "deploy.yaml")
    found = {
        tier.bundle: next(made for given, made in BUNDLES.items() if tier.bundle.endswith(given))
        for _, _, tier in plan.tiers_of(deploy)
    }
    return plan.of(deploy, found, "registry.test/quantgate:1")


def loaded(text: str) -> list[Any]:
    """The documents of a YAML file."""
    return list(YAML(typ="safe", pure=True).load_all(text))


def written(files: dict[str, str], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def checked(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """By a validator that the environment `servers` has."""
    if not environments.is_complete("servers"):
        pytest.skip("environment servers is not installed (make servers)")
    python = str(environments.python("servers"))
    if subprocess.run(
        [python, "-c", f"import {module}"], capture_output=True, check=False
    ).returncode:
        pytest.skip(f"environment servers has no {module}")
    return subprocess.run(
        [python, "-m", module, *words], capture_output=True, text=True, check=False
    )


def manifests(files: dict[str, str]) -> dict[tuple[str, str], Any]:
    """What is applied, by kind and name."""
    together = loaded(files["kustomization.yaml"])[0]["resources"]
    found = [one for name in together for one in loaded(files[name])]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def pod(files: dict[str, str], name: str) -> Any:
    return manifests(files)["Deployment", f"quantgate-{name}"]["spec"]["template"]["spec"]


def units(tmp_path: Path, deployment: str = SHOP) -> dict[str, str]:
    made = systemd.files(planned(tmp_path, deployment))
    return {Path(name).name: said for name, said in made.items() if name.startswith(systemd.UNITS)}
