"""Runs inside the openvino environment: a tiny random checkpoint of each model family, as the hub has them.

python -m tests.families FOLDER NAME...

Every family keeps what sets it apart: grouped-query attention, biases, fused matrices, tied embeddings, sliding windows,
experts. The weights are larger than at the start of a training, so that the models prefer some tokens to others.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

TOKENIZER = Path("recipes/tiny/checkpoint")
SPREAD = 0.1  # standard deviation of weights: logits then spread by about 1
COMMON = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": SPREAD,
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
    "mixtral": ("MixtralConfig", {**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "qwen3_moe": ("Qwen3MoeConfig", {**HEADS, "moe_intermediate_size": 128, "num_experts": 8, "num_experts_per_tok": 2}),
}


def make(family: str, out: Path) -> None:
    """Writes one checkpoint; the same bytes every time."""
    import torch
    import transformers

    kind, own = FAMILIES[family]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**{**COMMON, **own}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and norms, which transformers makes 0 and 1: a lost one would not be seen
                parameter.add_(torch.randn_like(parameter) * SPREAD)
    model.to(torch.bfloat16).save_pretrained(out)
    for path in TOKENIZER.glob("*token*"):
        shutil.copyfile(path, out / path.name)
    shutil.copyfile(TOKENIZER / "generation_config.json", out / "generation_config.json")


def main(folder: str, *names: str) -> None:
    for name in names:
        make(name, Path(folder) / name)


if __name__ == "__main__":
    main(*sys.argv[1:])
