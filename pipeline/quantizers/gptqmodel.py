"""GPTQ (arXiv 2210.17323) and AWQ (arXiv 2306.00978) checkpoints for vLLM, through GPTQModel on the
CPU."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import re
import shutil
from collections.abc import Set
from pathlib import Path
from typing import Any

from pipeline.errors import QuantizeError
from pipeline.quantizers import Outcome, Spec, awq_clip, tool
from pipeline.quantizers.export import copy_companions
from pipeline.source.checkpoint import linear_shapes

BATCH_ROWS = 4
# AWQ puts all of them through each block 21 times; what four times as many would gain is in
# docs/decisions.md.
AWQ_TOKENS = 8192
# GPTQModel's word in the log where AWQ has no scale to search: under grouped-query attention the
# value projection's columns cannot take up a scale of the output projection's rows.
NO_SCALE, NO_SCALE_MODULE = "not applicable", "self_attn.o_proj"


def quantize(spec: Spec, out: Path) -> Outcome:
    """Calibrates, quantizes and saves. Raises QuantizeError if a layer was not calibrated."""
    os.environ.setdefault(
        "GPTQMODEL_CPU_WORKERS", "2"
    )  # with 2 cores or fewer its pool is too small without it
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
    from gptqmodel.quantization import FORMAT
    from gptqmodel.quantization import METHOD as METHODS

    variant, source, out = spec.variant, spec.source.resolve(), out.resolve()
    method = tool(variant).method
    settings: dict[str, Any] = {
        "bits": 8 if variant.weights == "int8" else 4,
        "group_size": variant.groups_of,
        "fallback": None,
    }
    if method == "gptq":
        settings |= {
            "sym": True,
            "desc_act": bool(variant.desc_act),
            "method": METHODS.GPTQ,
            "format": FORMAT.GPTQ,
        }
        if variant.groups_of == -1:
            settings["act_group_aware"] = False  # its default, which needs groups
        options = {}
    else:
        awq_clip.replace_in_gptqmodel()
        settings |= {"sym": bool(variant.symmetric), "method": METHODS.AWQ, "format": FORMAT.GEMM}
        options = {"backend": BACKEND.AWQ_TORCH}  # the default back-end needs CUDA
    offload = out / "offload"
    skip: dict[str, dict[str, Any]] = {f"-:^{re.escape(name)}$": {} for name in spec.keep}
    config = QuantizeConfig(
        **settings,
        dynamic=skip or None,
        device="cpu",
        offload_to_disk=True,
        offload_to_disk_path=str(offload),
    )
    rows = (
        spec.rows()
        if method == "gptq" or spec.samples.coverage
        else _first(spec.rows(), AWQ_TOKENS)
    )
    with contextlib.chdir(out):  # it writes a folder of logs where it stands
        model = GPTQModel.load(str(source), config, trust_remote_code=False)
        model.quantize(rows, batch_size=BATCH_ROWS, **options)
        model.save(str(out))
    for folder in (offload, out / "logs"):
        shutil.rmtree(folder, ignore_errors=True)
    losses = _calibration_log(out / "quant_log.csv", linear_shapes(source).keys() - set(spec.keep))
    copy_companions(source, out)
    unscaled = [name for name, loss in losses.items() if loss is None]
    notes = (
        [
            f"AWQ searched no scale for {len(unscaled)} layers (grouped-query attention):"
            f" {unscaled[0]}, ..."
        ]
        if unscaled
        else []
    )
    return Outcome({**_resolved(out), "samples": len(rows), "loss_by_layer": losses}, notes)


def _first(rows: list[dict[str, list[int]]], tokens: int) -> list[dict[str, list[int]]]:
    """The rows, which are in a drawn order already, that hold this many tokens together: at least
    one."""
    ends = itertools.accumulate(len(row["input_ids"]) for row in rows)
    return rows[: sum(end <= tokens for end in ends) or 1]


def _resolved(out: Path) -> dict[str, Any]:
    """The settings as GPTQModel wrote them; its temporary path is taken out, or two equal runs
    would differ."""
    config_file = out / "config.json"
    config = json.loads(config_file.read_text())
    quantization: dict[str, Any] = config["quantization_config"]
    quantization["meta"].pop("offload_to_disk_path", None)
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (out / "quantize_config.json").write_text(
        json.dumps(quantization, indent=2, sort_keys=True) + "\n"
    )
    return quantization


def _calibration_log(log: Path, expected: Set[str]) -> dict[str, float | None]:
    """GPTQModel's loss per layer, None where AWQ has no scale to search (the output projection of
    grouped-query attention).

    The log itself does not stay in the artifact: it holds timings. Raises QuantizeError for a layer
    that fell back or is missing."""
    entries = list(csv.DictReader(log.read_text().splitlines()))
    log.unlink()
    prefix = next(iter(expected)).split(".layers.")[0]
    losses = {
        f"{prefix}.layers.{entry['layer']}.{entry['module']}": _loss(entry) for entry in entries
    }
    missing = sorted(expected - losses.keys())
    if missing:
        raise QuantizeError(
            f"GPTQModel calibrated {len(losses)} layers and left out {', '.join(missing[:5])}."
        )
    return losses


def _loss(entry: dict[str, str]) -> float | None:
    name = f"layer {entry['layer']} {entry['module']}"
    if not int(entry["samples"]):
        raise QuantizeError(f"GPTQModel saw no calibration tokens at {name}. Give more samples.")
    if entry["loss"] == NO_SCALE and entry["module"] == NO_SCALE_MODULE:
        return None
    try:
        return float(entry["loss"])
    except ValueError as error:
        raise QuantizeError(
            f"GPTQModel did not calibrate {name} but fell back ({entry['loss']!r}). Give more"
            " samples."
        ) from error
