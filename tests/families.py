"""Runs inside the openvino environment: a tiny checkpoint of a model family, as the hub has them,
random or trained.

python -m tests.families FOLDER NAME...     NAME: a family, or trained-FAMILY

Every family keeps what sets it apart: grouped-query attention, biases, fused matrices, tied
embeddings, sliding windows, experts. Random weights are larger than at the start of a training, so
that the models prefer some tokens to others. Trained ones had STEPS steps on the tiny recipe's
text; NAME.json, beside the checkpoint, holds rows of what follows there."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

TINY = Path("recipes/tiny")
TOKENIZER = TINY / "checkpoint"
TRAINED, STEPS = "trained-", 100
SPREAD, USUAL_SPREAD = (
    0.1,
    0.02,
)  # standard deviations of random weights: with the first, logits spread by about 1
COMMON = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "tie_word_embeddings": False,
}
GROUPED = {"num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 32}
GEMMA = {
    **HEADS,
    "query_pre_attn_scalar": 32,
    "sliding_window": 64,
    "layer_types": ["sliding_attention", "full_attention"],
    "tie_word_embeddings": True,
}
# Of transformers: the configuration's class, and what differs from COMMON.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", {**HEADS, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {**HEADS, "sliding_window": None}),
    "phi3": ("Phi3Config", GROUPED),
    "gemma2": ("Gemma2Config", GEMMA),
    "gemma3_text": ("Gemma3TextConfig", GEMMA),
    "gpt_neox": ("GPTNeoXConfig", {}),
    "mixtral": (
        "MixtralConfig",
        {**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    ),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {**HEADS, "moe_intermediate_size": 128, "num_experts": 8, "num_experts_per_tok": 2},
    ),
}


def make(name: str, out: Path) -> None:
    """Writes one checkpoint."""
    import torch
    import transformers

    kind, own = FAMILIES[name.removeprefix(TRAINED)]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**{**COMMON, **own})
    config.initializer_range = USUAL_SPREAD if name.startswith(TRAINED) else SPREAD
    model = transformers.AutoModelForCausalLM.from_config(config)
    if name.startswith(TRAINED):
        out.with_suffix(".json").write_text(json.dumps(train(model)))
    else:
        spread(model)
    model.to(torch.bfloat16).save_pretrained(out)
    for path in TOKENIZER.glob("*token*"):
        shutil.copyfile(path, out / path.name)
    shutil.copyfile(TOKENIZER / "generation_config.json", out / "generation_config.json")


def spread(model: Any) -> None:
    """Biases and norms, which transformers makes 0 and 1: a lost one would not be seen."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * SPREAD)


def train(model: Any) -> list[list[int]]:
    """Trains as the tiny checkpoint was; rows of the text that comes next."""
    sys.path.insert(0, str(TINY))
    import make_checkpoint
    from transformers import AutoTokenizer
    from world import SEED, World

    rows = make_checkpoint.batches(World(), AutoTokenizer.from_pretrained(TOKENIZER), SEED)
    print(
        f"{make_checkpoint.train(model, rows, STEPS, warm_up=STEPS // 10):.2f} nats a token after"
        f" {STEPS} steps",
        flush=True,
    )
    return next(rows).tolist()


def main(folder: str, *names: str) -> None:
    for name in names:
        make(name, Path(folder) / name)


if __name__ == "__main__":
    main(*sys.argv[1:])
