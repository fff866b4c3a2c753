"""Runs inside GPTQModel's environment: the clipping limits of one layer by GPTQModel's own search
and by ours, as JSON.

python -m tests.contract.clip_probe OUT.json
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from gptqmodel.looper.awq_processor import AWQProcessor

from pipeline.quantizers import awq_clip

OUTPUTS, INPUTS, TOKENS, GROUP = 64, 96, 200, 32


def main(out: str) -> None:
    torch.manual_seed(0)
    weight, inputs = torch.randn(OUTPUTS, INPUTS) ** 3, torch.randn(4, TOKENS // 4, INPUTS)
    inputs[..., ::7] *= 10  # channels of unequal size, as AWQ is for
    theirs, found = AWQProcessor._compute_best_clip, {}
    awq_clip.replace_in_gptqmodel()
    for symmetric in (False, True):
        processor = SimpleNamespace(qcfg=SimpleNamespace(group_size=GROUP, bits=4, sym=symmetric))
        processor._pseudo_quantize_tensor_into = functools.partial(
            AWQProcessor._pseudo_quantize_tensor_into, processor
        )
        searches = {"theirs": theirs, "ours": AWQProcessor._compute_best_clip}
        limits = {
            name: search(processor, weight, inputs).tolist() for name, search in searches.items()
        }
        found[str(symmetric)] = {
            **limits,
            "largest": weight.reshape(OUTPUTS, -1, GROUP).abs().amax(-1, keepdim=True).tolist(),
        }
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
