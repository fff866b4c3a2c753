"""Runs inside the openvino environment: checkpoints that are whole and others that are not, each as
`pin` and the reference see it.

python -m tests.contract.architecture_probe CHECKPOINT FOLDER OUT.json
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline import engines
from pipeline.errors import CheckpointError
from pipeline.recipe import Serve
from pipeline.source import architecture, tokens
from tests import families

DOWN, QUERY = "model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight"
Change = Callable[[dict[str, Any], dict[str, Any]], object]
DAMAGE: dict[str, Change] = {
    "whole": lambda tensors, config: None,
    "a matrix less": lambda tensors, config: tensors.pop(DOWN),
    "no output projection": lambda tensors, config: config.update(tie_word_embeddings=False),
    "no embedding": lambda tensors, config: tensors.pop("model.embed_tokens.weight"),
    "a head of classes": lambda tensors, config: tensors.update(
        {"score.weight": torch.zeros(2, 128)}
    ),
    "a bias that has no place": lambda tensors, config: tensors.update(
        {QUERY.replace("weight", "bias"): torch.zeros(128)}
    ),
    "another shape": lambda tensors, config: tensors.update({DOWN: tensors[DOWN][:, :128].clone()}),
    "more layers in config": lambda tensors, config: config.update(num_hidden_layers=4),
    "fewer layers in config": lambda tensors, config: config.update(num_hidden_layers=2),
    "another type in config": lambda tensors, config: config.update(
        model_type="gpt_neox", architectures=["GPTNeoXForCausalLM"]
    ),
    "an unknown type in config": lambda tensors, config: config.update(
        model_type="nothing", architectures=["Nothing"]
    ),
    "code from the repository": lambda tensors, config: config.update(
        model_type="nothing", auto_map={"AutoConfig": "x.Config", "AutoModelForCausalLM": "x.Model"}
    ),
    "auto_map of a known type": lambda tensors, config: config.update(
        auto_map={
            "AutoConfig": "configuration_x.Config",
            "AutoModelForCausalLM": "modeling_x.Model",
        }
    ),
    "a config of wrong types": lambda tensors, config: config.update(hidden_size="128"),
    "stored rotary frequencies": lambda tensors, config: tensors.update(
        {
            f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(32)
            for layer in range(3)
        }
    ),
}


def main(checkpoint: str, folder: str, out: str) -> None:
    from safetensors.torch import load_file, save_file

    found: dict[str, Any] = {"checked": {}, "families": {}, "reference": ""}
    stored = Path(checkpoint)
    for name, damage in DAMAGE.items():
        made = Path(folder) / name.replace(" ", "-")
        shutil.copytree(stored, made)
        tensors = dict(load_file(stored / "model.safetensors"))
        config = json.loads((stored / "config.json").read_text())
        damage(tensors, config)
        save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
        (made / "config.json").write_text(json.dumps(config))
        found["checked"][name] = _said(made)
    try:
        with engines.open_engine(
            "reference", Path(folder) / "a-matrix-less", Serve(max_model_len=64)
        ):
            pass
    except CheckpointError as error:
        found["reference"] = str(error)
    for name in families.FAMILIES:
        families.make(name, Path(folder) / name)
        found["families"][name] = _said(Path(folder) / name)
    found["tokenizers"] = _tokenizers(stored)
    Path(out).write_text(json.dumps(found))


def _said(folder: Path) -> str:
    try:
        architecture.check(folder, "HERE")
    except CheckpointError as error:
        return str(error)
    return ""


def _tokenizers(checkpoint: Path) -> dict[str, Any]:
    """What a tokenizer adds by its post-processor, and what our lm-eval model makes of a text."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    from pipeline.evaluation.lm import EngineLM

    special = [("<s>", 0), ("</s>", 1)]
    found = {}
    for template in ("$A", "<s> $A", "$A </s>", "<s> $A </s>", "</s> $A </s>"):
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=template, special_tokens=special
        )
        model = EngineLM(None, tokenizer, 64, set())  # type: ignore[arg-type]  # no engine is asked
        plain = tokenizer("Hello there", add_special_tokens=False)["input_ids"]
        found[template] = [
            tokens.added(tokenizer).model_dump(),
            plain,
            model.tok_encode("Hello there"),
            list(model._encode_pair("Hello", " there")),
        ]
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
