"""How many calibration tokens reach each expert of a mixture: an expert that sees none is quantized
blindly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import CalibrationError
from pipeline.source.checkpoint import source_tensors

EXPERTS = ".experts"


def count(source: Path, rows: list[list[int]]) -> dict[str, list[int]]:
    """Tokens routed to each expert by the source model, by the name of the block; empty for a model
    without experts.

    Each token counts once for every expert that it is sent to. Raises CalibrationError if no
    routing was seen."""
    if not any(f"{EXPERTS}." in name for name in source_tensors(source)):
        return {}
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        source, dtype="auto", trust_remote_code=False, local_files_only=True
    ).eval()
    counts_by_name: dict[str, Any] = {}

    def listen(name: str, experts: int) -> Any:
        counts_by_name[name] = torch.zeros(experts, dtype=torch.int64)

        def before(_: Any, given: tuple[Any, ...]) -> None:
            counts_by_name[name] += torch.bincount(
                given[1].flatten(), minlength=experts
            )  # given: hidden states, chosen experts, weights

        return before

    for name, module in model.named_modules():
        if name.endswith(EXPERTS):
            module.register_forward_pre_hook(listen(name, int(module.num_experts)))
    with torch.inference_mode():
        for row in rows:
            model(torch.tensor([row]), use_cache=False)
    if not counts_by_name or not all(counts.sum() for counts in counts_by_name.values()):
        raise CalibrationError(
            f"{source}: has experts, but what {type(model).__name__} sends to them cannot be"
            " counted."
        )
    return {name: counts.tolist() for name, counts in counts_by_name.items()}


def unseen(coverage: dict[str, list[int]]) -> list[str]:
    """The experts that no token is sent to."""
    return [
        f"{block}.{expert}"
        for block, counts in coverage.items()
        for expert, count in enumerate(counts)
        if not count
    ]


def notes(coverage: dict[str, list[int]]) -> list[str]:
    """What a reviewer is to know of it."""
    blind, experts = unseen(coverage), sum(map(len, coverage.values()))
    if not blind:
        return []
    more = ", ..." if len(blind) > 4 else ""
    return [
        f"No calibration token is sent to {len(blind)} of {experts} experts:"
        f" {', '.join(blind[:4])}{more}. Calibrate on more."
    ]
