"""The files for Docker Compose, and the image: what they say, and that Compose takes them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.gateway.files import (
    compose,
    image,
    kubernetes,
)
from tests.deployments import (
    LONE,
    SHOP,
    checked,
    loaded,
    planned,
    pod,
    units,
)
from tests.deployments import written as put


def test_services_of_compose(tmp_path: Path) -> None:
    shop = planned(tmp_path)
    files = compose.files(shop)
    services = loaded(files["compose.yaml"])[0]["services"]
    assert set(services) == {
        "fetch_tiny_ov-int8_1",
        "fetch_tiny_gptq-int4_2",
        "chat-bot-edge",
        "chat-bot-cloud",
        "redis",
        "gateway",
    }
    for name, service in services.items():
        assert service["user"] == "10001:10001", name
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"], name
    edge, cloud, gateway = (services[one] for one in ("chat-bot-edge", "chat-bot-cloud", "gateway"))
    assert edge["deploy"]["resources"]["limits"] == {"cpus": "4", "memory": "2048m"}
    assert cloud["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"
    assert (edge["image"], cloud["image"]) == (
        "registry.test/quantgate:1-openvino",
        "registry.test/quantgate:1-vllm-cuda",
    )
    assert (edge["networks"], edge["secrets"]) == (["inside"], ["server-key.chat-bot-edge"])
    assert "server-key.chat-bot-cloud" in gateway["secrets"]
    assert gateway["ports"] == ["8080:8080"]
    assert loaded(files["compose.yaml"])[0]["networks"]["inside"] == {"internal": True}


def test_only_what_is_served_there_is_fetched(tmp_path: Path) -> None:
    elsewhere = SHOP.replace("timeout_s: 20", "url: 'http://gpu.internal:8000/v1'")
    shop = planned(tmp_path, elsewhere)
    services = compose.document(shop)["services"]
    assert [name for name in services if name.startswith("fetch")] == ["fetch_tiny_ov-int8_1"]
    assert services["gateway"]["env_file"] == [{"path": "registry.env", "required": False}]
    assert "env_file" not in services["chat-bot-edge"]
    assert [one.entry.variant for one in shop.fetched] == ["ov-int8"]
    assert "gptq" not in units(tmp_path, elsewhere)["quantgate-bundles.service"]
    assert "initContainers" not in pod(kubernetes.files(shop), "gateway")


def test_the_gateway_is_reached_as_the_file_says(tmp_path: Path) -> None:
    for host, published in (
        ("127.0.0.1", "127.0.0.1:80:8080"),
        ("'::1'", "[::1]:80:8080"),
        ("10.0.0.5", "10.0.0.5:80:8080"),
    ):
        shop = SHOP.replace("{host: 0.0.0.0, port: 8080}", f"{{host: {host}, port: 80}}")
        document = compose.document(planned(tmp_path, shop))
        assert document["services"]["gateway"]["ports"] == [published]


def test_a_dollar_is_no_variable_of_compose(tmp_path: Path) -> None:
    files = compose.files(planned(tmp_path, LONE + "keys: {shop: {file: shop.key}}\n"))
    volumes = loaded(files["compose.yaml"])[0]["services"]["tiny-edge"]["volumes"]
    assert "/home/me/a $$model:/var/lib/quantgate/models/tiny/ov-int8/1:ro" in volumes


@pytest.mark.parametrize("deployment", [SHOP, LONE + "keys: {shop: {file: shop.key}}\n"])
def test_composes_schema(deployment: str, tmp_path: Path) -> None:
    file = put(compose.files(planned(tmp_path, deployment)), tmp_path / "out") / "compose.yaml"
    schema = ("--builtin-schema", "vendor.compose-spec")
    done = checked("check_jsonschema", *schema, str(file))
    assert done.returncode == 0, done.stdout
    file.write_text(file.read_text().replace("stop_grace_period", "stop_grace"))
    assert checked("check_jsonschema", *schema, str(file)).returncode == 1


def test_compose_itself_reads_it(tmp_path: Path) -> None:
    there = shutil.which("docker") and subprocess.run(
        ["docker", "compose", "version"], capture_output=True, check=False
    )
    if not there or there.returncode:
        pytest.skip("no docker compose here")
    out = put(compose.files(planned(tmp_path)), tmp_path / "out")
    done = subprocess.run(
        ["docker", "compose", "config", "--quiet"],
        cwd=out,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_image_has_what_is_needed(tmp_path: Path) -> None:
    made = image.dockerfile(planned(tmp_path))
    stages = [line for line in made.splitlines() if line.startswith("FROM")]
    assert stages == [
        "FROM python:3.11-slim AS gateway",
        "FROM gateway AS openvino",
        "FROM gateway AS vllm-cuda",
    ]
    assert "quantgate-*.whl)[oci,s3]" in made  # what the registries ask for
    assert made.count("USER 10001:10001") == 3
    assert "ENV QUANTGATE_DEVICE=cuda\nRUN quantgate setup vllm\n" in made
    lone = image.dockerfile(planned(tmp_path, LONE))
    assert "vllm" not in lone
    assert 'quantgate-*.whl)"' in lone
