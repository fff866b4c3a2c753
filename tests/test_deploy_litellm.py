"""The configuration for LiteLLM's proxy, held against the keys of LiteLLM itself.

QUANTGATE_LITELLM names a Python that has it. Its source is read there, and only the last test runs
it. Without one, the keys are those that were read in LiteLLM 1.110.2."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis

from pipeline.gateway.files import litellm
from tests.deployments import LONE, SECRET, SHOP, loaded, planned

ALL = LONE + "keys: {shop: {file: shop.key, cache: shared, cache_sampled: true}}\n"
PYTHON = os.environ.get("QUANTGATE_LITELLM")
# By section: where LiteLLM says which keys there are, and those of them that we use.
KEYS = {
    "config": (
        ("proxy/_types.py", "ConfigYAML"),
        {"model_list", "litellm_settings", "general_settings", "router_settings"},
    ),
    "litellm_params": (
        ("types/router.py", "LiteLLMParamsTypedDict"),
        {
            "model",
            "api_base",
            "api_key",
            "order",
            "timeout",
            "stream_timeout",
            "max_parallel_requests",
        },
    ),
    "model_info": (("types/router.py", "ModelInfo"), {"id"}),
    "general_settings": (("proxy/_types.py", "ConfigGeneralSettings"), {"master_key"}),
    "router_settings": (
        ("router_api.py", "ROUTER_INIT_ARGS"),
        {"routing_strategy", "num_retries", "allowed_fails", "cooldown_time"},
    ),
    "cache_params": (
        ("caching/caching.py", "Cache"),
        {"type", "host", "port", "password", "namespace", "ttl", "supported_call_types"},
    ),
}
OF_REDIS = {"db", "ssl"}  # handed on to redis.Redis, which our own environment has too
RUN = """
import json, sys
import yaml
from litellm import Router
from litellm.proxy._types import ConfigYAML
config = yaml.safe_load(open(sys.argv[1]))
ConfigYAML(**config)
router = Router(model_list=config["model_list"], **config["router_settings"])
print(json.dumps([one["model_name"] for one in router.model_list]))
"""
needs_litellm = pytest.mark.skipif(
    not PYTHON, reason="no LiteLLM here (QUANTGATE_LITELLM names a Python that has it)"
)


def rendered(folder: Path, text: str = SHOP) -> dict[str, Any]:
    said: dict[str, Any] = loaded(litellm.render(planned(folder, text)))[0]
    return said


def used(config: dict[str, Any]) -> dict[str, set[str]]:
    return {
        "config": set(config),
        "litellm_params": {key for one in config["model_list"] for key in one["litellm_params"]},
        "model_info": {key for one in config["model_list"] for key in one["model_info"]},
        "general_settings": set(config["general_settings"]),
        "router_settings": set(config["router_settings"]),
        "cache_params": set(config["litellm_settings"]["cache_params"]) - OF_REDIS,
    }


@pytest.fixture
def source() -> Path:
    """The folder of LiteLLM's package. Nothing of it runs to find it."""
    find = "import importlib.util as u; print(u.find_spec('litellm').submodule_search_locations[0])"
    done = subprocess.run([str(PYTHON), "-c", find], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{PYTHON} has no litellm: {done.stderr}"
    return Path(done.stdout.strip())


def declared(file: Path, name: str) -> set[str]:
    """What a class has as fields, or as arguments of its making, or a tuple as texts."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            fields = {
                one.target.id
                for one in node.body
                if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
            }
            made = [
                one
                for one in node.body
                if isinstance(one, ast.FunctionDef) and one.name == "__init__"
            ]
            return fields | {argument.arg for one in made for argument in one.args.args}
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", None) == name:
            assert node.value is not None
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"{file}: no {name}")


def test_keys_are_litellms(tmp_path: Path) -> None:
    config = rendered(tmp_path)
    assert used(config) == {section: keys for section, (_, keys) in KEYS.items()}
    ours = set(config["litellm_settings"]["cache_params"]) & OF_REDIS
    assert ours == {"db"}
    assert set(inspect.signature(redis.Redis.__init__).parameters) >= OF_REDIS


@needs_litellm
def test_litellms_source_has_these_keys(source: Path) -> None:
    for (file, name), keys in KEYS.values():
        assert keys <= declared(source / file, name), name


@needs_litellm
def test_litellm_itself_takes_it(tmp_path: Path) -> None:
    file = tmp_path / "litellm.yaml"
    file.write_text(litellm.render(planned(tmp_path)))
    try_it = [str(PYTHON), "-c", "import litellm.proxy._types"]
    if subprocess.run(try_it, capture_output=True, check=False).returncode:
        pytest.skip(f"{PYTHON} cannot import LiteLLM: its packages are not all there")
    done = subprocess.run(
        [str(PYTHON), "-c", RUN, str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == '["Chat.Bot", "Chat.Bot", "Chat.Bot"]'


def test_it_is_the_same_deployment(tmp_path: Path) -> None:
    config = rendered(tmp_path)
    shown = [
        (one["model_name"], *(one["litellm_params"][key] for key in ("order", "api_base", "model")))
        for one in config["model_list"]
    ]
    edge, cloud = (
        f"openai/tiny-ov-int8@sha256:{'a' * 64}",
        f"openai/tiny-gptq-int4@sha256:{'b' * 64}",
    )
    assert shown == [
        ("Chat.Bot", 1, "http://127.0.0.1:8001/v1", edge),
        ("Chat.Bot", 2, "http://127.0.0.1:8002/v1", cloud),
        ("Chat.Bot", 3, "http://other.internal:8000/v1", edge),
    ]
    assert config["model_list"][1]["litellm_params"]["timeout"] == 20
    assert config["litellm_settings"]["cache_params"]["db"] == 2


def test_its_keys_come_from_the_environment(tmp_path: Path) -> None:
    shop = planned(tmp_path)
    config = loaded(litellm.render(shop))[0]
    steps = "\n".join(litellm.steps(shop))
    named = [one["litellm_params"]["api_key"] for one in config["model_list"]]
    named += [
        config["general_settings"]["master_key"],
        config["litellm_settings"]["cache_params"]["password"],
    ]
    for key in named:
        source, _, variable = key.partition("/")
        assert source == "os.environ"
        assert f"export {variable}=" in steps
    assert SECRET not in litellm.render(shop) + steps
    assert f"--policy {tmp_path}/policy.yaml" in steps


def test_a_cache_of_its_own_memory_and_none(tmp_path: Path) -> None:
    assert "litellm_settings" not in rendered(tmp_path, LONE)
    kept = rendered(tmp_path, ALL + "cache: {ttl_s: 60}\n")["litellm_settings"]["cache_params"]
    assert (kept["type"], kept["ttl"]) == ("local", 60)
    url = "cache: {url: 'rediss://cache.internal:6380/1'}\n"
    kept = rendered(tmp_path, ALL + url)["litellm_settings"]["cache_params"]
    assert (kept["host"], kept["port"], kept["ssl"]) == ("cache.internal", 6380, True)


@pytest.mark.parametrize(
    "keys", ["", "cache: shared", "cache: own, cache_sampled: true", "cache_sampled: true"]
)
def test_no_cache_that_shares_more_than_was_said(tmp_path: Path, keys: str) -> None:
    clients = f"keys: {{shop: {{file: shop.key, {keys}}}}}\n" if keys else ""
    assert "litellm_settings" not in rendered(tmp_path, LONE + clients + "cache: {ttl_s: 60}\n")


def test_it_says_what_litellm_has_no_word_for(tmp_path: Path) -> None:
    header = litellm.render(planned(tmp_path)).split("model_list:")[0]
    for word in ("approvals", "benchmark", "escalation", "digest", "device time"):
        assert word in header
