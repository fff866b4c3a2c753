"""The model card: what the hub reads in front, what people read behind, and nothing that was not
measured."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest
from huggingface_hub import ModelCard

from pipeline.report.card import render
from pipeline.report.snippets import openvino_code, vllm_command, vllm_request
from tests import timed_summaries as make

HUB = {"repo": "owner/model", "revision": "a" * 40, "path": None}


def card(variant: str, rows: dict[str, Any] | None = None, **checkpoint: Any) -> ModelCard:
    return ModelCard(render(make.summary(rows, **checkpoint), variant))


def test_the_front_matter_of_a_quantized_model_from_the_hub() -> None:
    found = card("gptq-int4", **HUB).data.to_dict()
    assert found["base_model"] == "owner/model"
    assert found["base_model_relation"] == "quantized"
    assert found["library_name"] == "transformers"
    assert found["pipeline_tag"] == "text-generation"
    assert found["tags"] == ["vllm", "int4", "gptq", "quantgate"]
    assert "license" not in found


def test_a_local_or_unquantized_model_claims_no_relation() -> None:
    assert not {"base_model", "base_model_relation"} & card("ov-int8").data.to_dict().keys()
    found = card("ov-bf16", **HUB).data.to_dict()
    assert (found["base_model"], found["library_name"], found["tags"]) == (
        "owner/model",
        "openvino",
        ["openvino", "quantgate"],
    )
    assert "base_model_relation" not in found


def test_the_licence_is_the_checkpoints() -> None:
    assert card("ov-int8", license="apache-2.0").data.license == "apache-2.0"


def test_the_results_are_the_measured_ones() -> None:
    found = card("ov-int4").data
    assert found.model_name == "tiny-ov-int4"
    assert [
        (one.dataset_name, one.metric_type, one.metric_value) for one in found.eval_results
    ] == [
        ("world_facts", "accuracy", 0.794),
        ("text", "perplexity", 1.7102),
    ]


def test_what_was_not_measured_is_not_in_the_results() -> None:
    rows = make.variants()
    rows["rounded-int2"] |= {"tasks": {}, "perplexity": {"text": float("nan")}}
    rows["rounded-int2"]["evaluation"]["settings"] = {}
    found = card("rounded-int2", rows)
    assert "model-index" not in found.data.to_dict()
    assert "It did not pass: do not put it into service." in found.text
    assert "| rounded-int2 | not measured | 0.3450 |" in found.text
    assert "| reference (float32) | 80.0% ± 1.0% |\n| rounded-int2 | not measured |" in found.text
    assert "Its engine did not run it" in found.text
    assert "Not measured: the gate says FAIL." in found.text
    assert "```" not in found.text


def test_the_body_says_how_it_was_made_and_measured() -> None:
    text = card("gptq-int4").text
    assert "9 of 9 checks passed" in text
    assert (
        "| `mean_kl deployed text` | 0.005 | 0.0045 to 0.0055 | 1 | 1% | 100 | **PASS** |" in text
    )
    assert "mode=as asked" in text
    assert "64 rows from tiny-prompts, seed 0" in text
    assert "gptqmodel=7.6.0" in text
    assert "vllm 0.32.0+cpu" in text
    assert "Measured on X, 2 cores (avx2, avx512f)." in text
    assert "| deployed | 1 at once | 60 (59.4 to 60.6) |" in text
    assert "64 rows" not in card("vllm-bf16").text  # nothing was calibrated


@pytest.mark.parametrize("variant", list(make.variants()))
def test_it_is_read_on_one_screen_and_says_first_how_to_serve(variant: str) -> None:
    text = card(variant).text.strip()
    assert len(text.splitlines()) <= 80
    assert re.findall(r"^## .*", text, re.MULTILINE)[0] == "## Serve it"


def test_the_server_is_started_as_it_was_measured() -> None:
    words = shlex.split(vllm_command("folder", make.VLLM_SETTINGS).replace("\\\n", " "))
    assert words[:5] == [
        "VLLM_CPU_KVCACHE_SPACE=1",
        "VLLM_CPU_INT4_W4A8=1",
        "vllm",
        "serve",
        "folder",
    ]
    for option in (
        ["--dtype", "bfloat16"],
        ["--max-model-len", "512"],
        ["--max-num-seqs", "64"],
        ["--generation-config", "vllm"],
    ):
        assert words[words.index(option[0]) + 1] == option[1]
    assert {"--no-enable-prefix-caching", "--enforce-eager"} <= set(words)
    other = vllm_command("folder", {**make.VLLM_SETTINGS, "device": "cuda", "enforce_eager": False})
    assert other.startswith("vllm serve folder")
    assert "eager" not in other


def test_the_request_is_json_to_the_same_port() -> None:
    words = shlex.split(vllm_request("name"))
    assert json.loads(words[words.index("-d") + 1])["model"] == "name"
    port = re.search(r":(\d+)/", vllm_request("name"))
    assert port
    assert f"--port {port[1]}" in vllm_command("name", make.VLLM_SETTINGS)


@pytest.mark.parametrize(
    ("settings", "said"), [(make.OPENVINO_SETTINGS, False), (make.MATCHED_SETTINGS, True)]
)
def test_the_openvino_code_is_python_with_the_measured_settings(
    settings: dict[str, Any], said: bool
) -> None:
    code = openvino_code("folder", settings)
    compile(code, "card", "exec")
    assert '"folder", "CPU", scheduler_config=scheduler' in code
    assert "scheduler.enable_prefix_caching = False" in code
    assert ("KV_CACHE_PRECISION" in code) is said
