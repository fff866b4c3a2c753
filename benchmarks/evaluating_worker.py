"""The inner end of benchmarks.evaluating: one task on one side, in the openvino environment.

python -m benchmarks.evaluating_worker JOB.json ANSWER.json
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import engines
from pipeline.evaluation import tasks
from pipeline.evaluation.lm import EngineLM
from pipeline.recipe import Evaluate, Perplexity, Serve
from pipeline.tensors import read_header

MAX_LENGTH = 1024
SEED = 3


def main(request: str, answer: str) -> None:
    from lm_eval.evaluator import simple_evaluate

    job = json.loads(Path(request).read_text())
    name, checkpoint = job["task"], Path(job["checkpoint"])
    evaluate = Evaluate(
        perplexity=Perplexity(texts=["none"], window=8), tasks={name: job["items"]}, task_path=job["folder"], seed=SEED
    )
    manager, leaves, places = tasks.prepare(evaluate, {name: (0, job["items"])})
    drawn = {leaf: sorted(found) for leaf, found in places.items()}
    greedy = {leaf for leaf, found in leaves[name].items() if found.OUTPUT_TYPE == "loglikelihood"}
    with _ours(checkpoint, greedy) if job["side"] == "ours" else _theirs(checkpoint) as model:
        started = time.process_time()
        results = simple_evaluate(model, tasks=list(drawn), task_manager=manager, samples=drawn, bootstrap_iters=0)
        used = time.process_time() - started
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    found = {
        "cpu_s": used,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "weights_bytes": 4 * _parameters(checkpoint),
        "loglikelihoods": [float(response[0][0]) for sample in samples for response in sample["resps"]],
    }
    Path(answer).write_text(json.dumps(found))


@contextlib.contextmanager
def _ours(checkpoint: Path, greedy: set[str]) -> Iterator[Any]:
    from transformers import AutoTokenizer

    with engines.open_engine("reference", checkpoint, Serve(max_model_len=MAX_LENGTH)) as engine:
        yield EngineLM(engine, AutoTokenizer.from_pretrained(checkpoint), MAX_LENGTH - 1, greedy)


@contextlib.contextmanager
def _theirs(checkpoint: Path) -> Iterator[Any]:
    from lm_eval.models.huggingface import HFLM

    yield HFLM(str(checkpoint), device="cpu", dtype="float32", batch_size=16, max_length=MAX_LENGTH - 1)


def _parameters(checkpoint: Path) -> int:
    return sum(math.prod(tensor.shape) for file in checkpoint.glob("*.safetensors") for tensor in read_header(file).values())


if __name__ == "__main__":
    main(*sys.argv[1:])
