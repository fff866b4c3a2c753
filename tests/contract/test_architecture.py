"""A checkpoint whose tensors are not those of its architecture is refused by name, and a
tokenizer's end token scores nothing."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from pipeline.runtime import environments
from tests.conftest import ROOT

pytestmark = pytest.mark.engine

DOWN = "model.layers.1.mlp.down_proj.weight"
REFUSED = {
    "a matrix less": f"missing: {DOWN}",
    "no output projection": "missing: lm_head.weight",
    # tied: one matrix, two places
    "no embedding": "missing: lm_head.weight, model.embed_tokens.weight",
    "a head of classes": "not expected: score.weight",
    "a bias that has no place": "not expected: model.layers.0.self_attn.q_proj.bias",
    "another shape": f"of another shape: {DOWN} ([128, 128], expected [128, 256])",
    "more layers in config": "missing: model.layers.3.input_layernorm.weight",
    "fewer layers in config": "not expected: model.layers.2.input_layernorm.weight",
    "another type in config": "missing: embed_out.weight",
    "an unknown type in config": "cannot build a causal language model by its config.json",
    "code from the repository": "auto_map asks for code from the repository",
    "a config of wrong types": "cannot build a causal language model by its config.json",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("architecture")
    out = folder / "found.json"
    command = [str(environments.python("openvino")), "-m", "tests.contract.architecture_probe"]
    subprocess.run(
        [*command, "recipes/tiny/checkpoint", str(folder), str(out)], cwd=ROOT, check=True
    )
    result: dict[str, Any] = json.loads(out.read_text())
    return result


@pytest.mark.parametrize("damage", REFUSED)
def test_what_does_not_fit_is_named(found: dict[str, Any], damage: str) -> None:
    assert REFUSED[damage] in found["checked"][damage]
    assert found["checked"][damage].startswith("HERE: ")


@pytest.mark.parametrize(
    "harmless", ["whole", "auto_map of a known type", "stored rotary frequencies"]
)
def test_what_transformers_loads_whole_is_taken(found: dict[str, Any], harmless: str) -> None:
    assert found["checked"][harmless] == ""


def test_no_other_damage_is_left_unsaid(found: dict[str, Any]) -> None:
    assert {name for name, said in found["checked"].items() if said} == REFUSED.keys()


def test_the_checkpoints_of_other_families_are_whole(found: dict[str, Any]) -> None:
    assert {name: said for name, said in found["families"].items() if said} == {}


def test_the_reference_itself_refuses_missing_weights(found: dict[str, Any]) -> None:
    assert f"missing: {DOWN}" in found["reference"]


def test_texts_begin_as_the_tokenizer_begins_them_and_have_no_end_token(
    found: dict[str, Any],
) -> None:
    for template, (added, plain, encoded, (context, continuation)) in found["tokenizers"].items():
        front, _, end = template.partition("$A")
        ids = {"<s>": [0], "</s>": [1], "": []}
        assert added == {"front": ids[front.strip()], "end": ids[end.strip()]}, template
        assert encoded == [*added["front"], *plain], template
        assert context + continuation == encoded, template
        assert 1 not in continuation, template
