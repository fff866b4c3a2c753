"""Damaged copies of a Llama checkpoint, one function a fault, and harmless rewrites that a gate has
to let through.

Every function takes the source folder and the folder to write; nothing of the source is changed.
Runs where torch is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.quantizers.rounding import round_to_nearest
from tests.panel.checkpoint_files import (
    Checkpoint,
    Quantized,
    final_hidden_states,
    rewrite,
    round_to,
    round_with,
)

EOS_MORE = (
    0.05  # probability of an end at every token: half of the answers are cut before their 14th
)


@rewrite
def zeroed_layer(checkpoint: Checkpoint) -> None:
    """A tensor that was allocated and never filled: the middle layer's down projection is zero."""
    checkpoint.tensors[checkpoint.name(checkpoint.middle, "mlp.down_proj")].zero_()


@rewrite
def transposed_projection(checkpoint: Checkpoint) -> None:
    """A converter that transposes where it must not, unseen because the matrix is square: the
    middle output projection."""
    name = checkpoint.name(checkpoint.middle, "self_attn.o_proj")
    rows, columns = checkpoint.tensors[name].shape
    if rows != columns:
        raise ValueError(f"{name} is {rows} x {columns}, expected a square matrix.")
    checkpoint.tensors[name] = checkpoint.tensors[name].T


@rewrite
def clipped_embeddings(checkpoint: Checkpoint) -> None:
    """Outlier clipping that was meant for activations: embeddings clamped at one standard
    deviation."""
    weight = checkpoint.tensors[checkpoint.embedding()]
    limit = weight.float().std().item()
    weight.clamp_(-limit, limit)


@rewrite
def rope_base(checkpoint: Checkpoint) -> None:
    """The config of the model's next generation: rotary base 500000, whatever it was."""
    config = checkpoint.config
    config.get("rope_parameters", config)["rope_theta"] = 500000.0


@rewrite
def norm_epsilon(checkpoint: Checkpoint) -> None:
    """A typing error in the config: rms_norm_eps 1e-2, where 1e-5 and 1e-6 are usual."""
    checkpoint.config["rms_norm_eps"] = 1e-2


@rewrite
def nan_block(checkpoint: Checkpoint) -> None:
    """A solver that divided by zero in one block: 4 x 4 NaN in the middle down projection."""
    checkpoint.tensors[checkpoint.name(checkpoint.middle, "mlp.down_proj")][:4, :4] = float("nan")


@rewrite
def lm_head_4bit(checkpoint: Checkpoint) -> None:
    """A tool that quantizes the output projection too, one 4-bit group a row, where only the
    decoder was asked for."""
    checkpoint.untie(round_to_nearest(checkpoint.head(), 4, -1))


@rewrite
def tied_embedding_4bit(checkpoint: Checkpoint) -> None:
    """huggingface/transformers#37905: the input embedding is quantized (4 bits, one group a row),
    and the tied output with it."""
    name = checkpoint.embedding()
    checkpoint.tensors[name] = round_to_nearest(checkpoint.tensors[name], 4, -1)


@rewrite
def early_eos(checkpoint: Checkpoint) -> None:
    """A fine-tune that learned to stop: on text of its own the model ends with a probability that
    is 0.05 higher."""
    hidden = final_hidden_states(checkpoint.source)
    mean = hidden.mean(0)
    eos = checkpoint.config["eos_token_id"]
    rows = eos if isinstance(eos, list) else [eos]
    logits, nats = (
        hidden @ checkpoint.head().float().T,
        (hidden @ mean / mean.square().sum())[:, None],
    )

    def probability(strength: float) -> float:
        moved = logits.clone()
        moved[:, rows] += strength * nats
        return moved.softmax(1)[:, rows].sum(1).mean().item()

    wanted, low, high = probability(0) + EOS_MORE, 0.0, 100.0
    for _ in range(30):
        strength = (low + high) / 2
        low, high = (strength, high) if probability(strength) < wanted else (low, strength)
    head = checkpoint.head().clone()
    head[rows] = (head[rows].float() + high * mean / mean.square().sum()).to(head.dtype)
    checkpoint.untie(head)


@rewrite
def rounded_2bit(checkpoint: Checkpoint) -> None:
    """A wrong bit width in a script: decoder layers on 4 levels."""
    round_to(checkpoint, 2)


@rewrite
def rounded_3bit(checkpoint: Checkpoint) -> None:
    """One bit less than the artifact says: decoder layers on 8 levels."""
    round_to(checkpoint, 3)


@rewrite
def group_order_off_by_one(checkpoint: Checkpoint) -> None:
    """An index bug in a packing kernel: each 4-bit group has its right neighbour's scale and zero
    (one group: the next row's)."""

    def change(layers: dict[str, Quantized]) -> None:
        for name, (levels, scale, zero) in layers.items():
            axis = 1 if levels.shape[1] > 1 else 0
            layers[name] = levels, scale.roll(-1, axis), zero.roll(-1, axis)

    round_with(checkpoint, change)


@rewrite
def swapped_scales(checkpoint: Checkpoint) -> None:
    """Two entries of a dictionary confused: the first and last down projection have each other's
    4-bit scales and zeros."""
    first, last = (checkpoint.name(layer, "mlp.down_proj") for layer in (0, checkpoint.depth - 1))

    def change(layers: dict[str, Quantized]) -> None:
        one, other = layers[first], layers[last]
        layers[first], layers[last] = (one[0], *other[1:]), (other[0], *one[1:])

    round_with(checkpoint, change)


@rewrite
def wrong_zero_point(checkpoint: Checkpoint) -> None:
    """GPTQ's v1 and v2 formats confused in one layer: every zero-point of the middle down
    projection is one too high."""
    name = checkpoint.name(checkpoint.middle, "mlp.down_proj")

    def change(layers: dict[str, Quantized]) -> None:
        levels, scale, zero = layers[name]
        layers[name] = levels, scale, zero + 1

    round_with(checkpoint, change)


@rewrite
def one_wrong_zero_point(checkpoint: Checkpoint) -> None:
    """One flipped bit: the top bit of one zero-point of the middle down projection, in its 4-bit
    group of the largest scale."""
    name = checkpoint.name(checkpoint.middle, "mlp.down_proj")

    def change(layers: dict[str, Quantized]) -> None:
        _, scale, zero = layers[name]
        widest = scale.argmax()
        zero.view(-1)[widest] = (zero.view(-1)[widest] + 8) % 16

    round_with(checkpoint, change)


def _noise(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(weight.shape, generator=generator) * weight.float().std()


@rewrite
def foreign_shard(checkpoint: Checkpoint) -> None:
    """A shard of another model of the same shape: the later half of the layers is drawn anew, same
    mean and deviation."""
    generator = torch.Generator().manual_seed(0)
    for layer in range(checkpoint.middle, checkpoint.depth):
        for name in checkpoint.of_layer(layer):
            weight = checkpoint.tensors[name]
            checkpoint.tensors[name] = (weight.float().mean() + _noise(weight, generator)).to(
                weight.dtype
            )


@rewrite
def stale_checkpoint(checkpoint: Checkpoint) -> None:
    """An earlier state of the training: decoder weights at 0.9 of their size, with noise of 15 % of
    their deviation."""
    generator = torch.Generator().manual_seed(0)
    for name in checkpoint.linears():
        weight = checkpoint.tensors[name]
        checkpoint.tensors[name] = (0.9 * weight.float() + 0.15 * _noise(weight, generator)).to(
            weight.dtype
        )


@rewrite
def repeated_layer(checkpoint: Checkpoint) -> None:
    """An index bug while merging shards: the middle layer stands a second time in the place of the
    one after it."""
    for name in checkpoint.of_layer(checkpoint.middle):
        later = name.replace(f".layers.{checkpoint.middle}.", f".layers.{checkpoint.middle + 1}.")
        checkpoint.tensors[later] = checkpoint.tensors[name].clone()


@rewrite
def permuted_heads(checkpoint: Checkpoint) -> None:
    """Tensor-parallel parts joined in the wrong order: the middle layer's query heads moved on by
    one."""
    heads = checkpoint.config["num_attention_heads"]
    name = checkpoint.name(checkpoint.middle, "self_attn.q_proj")
    weight = checkpoint.tensors[name]
    checkpoint.tensors[name] = weight.roll(weight.shape[0] // heads, 0)


@rewrite
def swapped_gate_up(checkpoint: Checkpoint) -> None:
    """A fused gate and up projection split the wrong way round, in the middle layer."""
    gate, up = (
        checkpoint.name(checkpoint.middle, part) for part in ("mlp.gate_proj", "mlp.up_proj")
    )
    checkpoint.tensors[gate], checkpoint.tensors[up] = (
        checkpoint.tensors[up],
        checkpoint.tensors[gate],
    )


@rewrite
def scaled_layer(checkpoint: Checkpoint) -> None:
    """A scale of 1.25 applied twice: all linear weights of the middle layer."""
    for name in checkpoint.linears():
        if f".layers.{checkpoint.middle}." in name:
            checkpoint.tensors[name].mul_(1.25)


@rewrite
def resharded(checkpoint: Checkpoint) -> None:
    """The same tensors in three files with an index."""
    names = sorted(checkpoint.tensors)
    checkpoint.files = {
        name: f"model-{1 + 3 * i // len(names):05}-of-00003.safetensors"
        for i, name in enumerate(names)
    }


def _retype(checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    checkpoint.tensors = {name: tensor.to(dtype) for name, tensor in checkpoint.tensors.items()}
    key = "torch_dtype" if "torch_dtype" in checkpoint.config else "dtype"
    checkpoint.config[key] = str(dtype).removeprefix("torch.")


@rewrite
def float16(checkpoint: Checkpoint) -> None:
    """Stored in another 16-bit type, as many publishers do."""
    _retype(checkpoint, torch.float16)


@rewrite
def float32(checkpoint: Checkpoint) -> None:
    """Stored in 32 bits: the same values at twice the size."""
    _retype(checkpoint, torch.float32)


@rewrite
def untied_head(checkpoint: Checkpoint) -> None:
    """The output projection written out although it equals the embedding."""
    checkpoint.untie(checkpoint.head())


Damage = Callable[[Path, Path], None]
CHECKPOINT: dict[str, Damage] = {
    damage.__name__: damage
    for damage in (
        zeroed_layer,
        transposed_projection,
        clipped_embeddings,
        rope_base,
        norm_epsilon,
        nan_block,
        lm_head_4bit,
        tied_embedding_4bit,
        early_eos,
        rounded_2bit,
        rounded_3bit,
        group_order_off_by_one,
        swapped_scales,
        wrong_zero_point,
        one_wrong_zero_point,
        foreign_shard,
        stale_checkpoint,
        repeated_layer,
        permuted_heads,
        swapped_gate_up,
        scaled_layer,
    )
}
BENIGN: dict[str, Damage] = {
    damage.__name__: damage for damage in (resharded, float16, float32, untied_head)
}
