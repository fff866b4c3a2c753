"""Trains the tiny checkpoint and writes it with its tokenizer and chat template (run in the
openvino environment).

    python recipes/tiny/make_checkpoint.py OUT       (20 minutes on one core)

The model is deliberately full: many facts in few parameters, so that rounding its weights costs
answers. Same seed, same number of threads: same weights."""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from world import SEED, World

BATCH, CONTEXT, VOCABULARY = 48, 256, 1024
PEAK_LR = 3e-3
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ 'Question: ' + message['content'] + '\\nAnswer:' }}{% endif %}{% endfor %}"
)


def train_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """Byte-level BPE on the world's text; digits stay single so that sums can be learned."""
    rng = random.Random(SEED)
    stream = world.documents(rng)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+|\d| ?[^\s\p{L}\d]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((next(stream) for _ in range(40_000)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=512,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def batches(world: World, tokenizer: PreTrainedTokenizerFast, seed: int):
    """Documents `<s> ... </s>` packed end to end into rows of CONTEXT + 1 ids."""
    rng = random.Random(seed)
    stream, pool = world.documents(rng), []
    need = BATCH * (CONTEXT + 1)
    while True:
        while len(pool) < need:
            documents = [next(stream) for _ in range(512)]
            for ids in tokenizer(documents)["input_ids"]:
                pool.extend([*ids, tokenizer.eos_token_id])
        yield torch.tensor(pool[:need]).view(BATCH, CONTEXT + 1)
        pool = pool[need:]


def train(model: LlamaForCausalLM, rows, steps: int, warm_up: int = 200) -> float:
    """AdamW, linear warm-up, cosine to zero; returns the mean loss of the last 50 steps in nats per
    token."""
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}],
        lr=PEAK_LR,
        betas=(0.9, 0.98),
    )

    @torch.compile
    def mean_loss(row: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(row[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), row[:, 1:].flatten())

    losses, start = [], time.monotonic()
    for step in range(steps):
        factor = min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * factor
        loss = mean_loss(next(rows))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 100 == 99:
            elapsed = time.monotonic() - start
            left = elapsed / (step + 1) * (steps - step - 1)
            print(
                f"step {step + 1}/{steps} loss {sum(losses[-50:]) / 50:.4f} elapsed {elapsed:.0f} s"
                f" left {left:.0f} s",
                flush=True,
            )
    return sum(losses[-50:]) / len(losses[-50:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2100)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(args.threads)
    world = World()
    tokenizer = train_tokenizer(world)
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=VOCABULARY,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    loss = train(model, batches(world, tokenizer, SEED), args.steps)
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    record = {
        "steps": args.steps,
        "tokens": args.steps * BATCH * CONTEXT,
        "loss_nats_per_token": round(loss, 4),
    }
    (args.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
