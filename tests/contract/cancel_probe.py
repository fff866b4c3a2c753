"""Runs inside the openvino environment: the share of the KV cache that is taken, before and after
all requests but one are cancelled, and who still gets tokens.

python -m tests.contract.cancel_probe ARTIFACT OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline import engines
from pipeline.engines import Sampling
from tests.contract.probe import SERVE


def main(artifact: Path) -> dict[str, object]:
    keys, begun = range(SERVE.max_num_seqs), set[int]()
    with engines.open_serving("openvino", artifact, SERVE) as engine:
        for key in keys:
            engine.submit(key, [key + 5] * 128, Sampling(100, ignore_eos=True))
        while len(begun) < len(keys):  # the prompts are taken in parts
            begun |= {step.key for step in engine.step()}
        before = engine.kv_cache_use()
        for key in keys[1:]:
            engine.cancel(key)
        spoken = {step.key for _ in range(3) for step in engine.step()}
        after = engine.kv_cache_use()
        engine.cancel(0)
        at_last = engine.kv_cache_use()
    return {"before": before, "after": after, "spoken": [*spoken], "at_last": at_last}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(main(Path(sys.argv[1]))))
