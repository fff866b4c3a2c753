"""AWQ's search for clipping limits (arXiv 2306.00978, as in its authors' code) by Gram matrices, in
the place of GPTQModel's.

GPTQModel 7.6.0 multiplies each weight with each of 512 tokens one by one, eleven times: half of
AWQ's time on a CPU. The error of a group's output, the mean over tokens of (x . d)^2 with d the
error of its weights, is d' G d with G the mean of x x': one product of small matrices, over all
tokens instead of 512."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

STEPS, LEAST = (
    20,
    0.5,
)  # limits of 1, 0.95, ... times the largest magnitude, down to more than half of it
SLICE = 1 << 24  # weights at a time, which bounds the memory to a few times 64 MiB


def replace_in_gptqmodel() -> None:
    """From then on GPTQModel's AWQ in this process searches by `_compute_best_clip` below."""
    from gptqmodel.looper.awq_processor import AWQProcessor

    AWQProcessor._compute_best_clip = _compute_best_clip


def _compute_best_clip(processor: Any, weight: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """As GPTQModel's: weight [out, in], inputs [..., in] -> the limit of each group [out, groups,
    1]."""
    import torch

    group = processor.qcfg.group_size if processor.qcfg.group_size > 0 else weight.shape[1]

    def quantized(given: torch.Tensor) -> torch.Tensor:
        made = torch.empty_like(given)
        processor._pseudo_quantize_tensor_into(given, made)
        return made

    with torch.inference_mode():
        products = gram(inputs.reshape(-1, weight.shape[1]), group)
        rows = weight.split(max(1, SLICE // weight.shape[1]))
        return torch.cat([limits(part.float(), products, quantized) for part in rows]).to(
            weight.dtype
        )


def gram(inputs: torch.Tensor, group: int) -> torch.Tensor:
    """[tokens, in] -> [groups, group, group] in float32: the mean over tokens of x x' within each
    group of columns."""
    tokens, columns = inputs.shape
    groups = inputs.float().reshape(tokens, columns // group, group).transpose(0, 1)
    return groups.transpose(1, 2) @ groups / tokens


def limits(weight: torch.Tensor, products: torch.Tensor, quantized: Any) -> torch.Tensor:
    """weight [out, in], products [groups, group, group] -> [out, groups, 1]: of each group the
    limit of least output error.

    `quantized` rounds a tensor [out, groups, group], each group by itself, to the values that are
    stored for it."""
    import torch

    groups = weight.reshape(weight.shape[0], len(products), -1)
    largest = groups.abs().amax(-1, keepdim=True)
    best, least = largest.clone(), torch.full_like(largest, torch.inf)
    for step in range(int(STEPS * LEAST)):
        limit = largest * (1 - step / STEPS)
        error = quantized(groups.clamp(-limit, limit)) - groups
        loss = (torch.einsum("ogi,gij->ogj", error, products) * error).sum(-1, keepdim=True)
        better = loss < least
        best, least = torch.where(better, limit, best), torch.where(better, loss, least)
    return best
