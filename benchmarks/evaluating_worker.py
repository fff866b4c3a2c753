"""The inner end of benchmarks.evaluating: one task on one side or on both in turns, in the openvino
environment.

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
from pipeline.source.tensors import read_header

MAX_LENGTH = 1024
SEED = 3


def main(request: str, answer: str) -> None:
    from lm_eval.evaluator import simple_evaluate

    job = json.loads(Path(request).read_text())
    name, checkpoint = job["task"], Path(job["checkpoint"])
    evaluate = Evaluate(
        perplexity=Perplexity(texts=["none"], window=8),
        tasks={name: job["items"]},
        task_path=job["folder"],
        seed=SEED,
    )
    prepared = tasks.prepare(evaluate, Serve(max_model_len=MAX_LENGTH), {name: (0, job["items"])})
    manager, drawn = (
        prepared.manager,
        {leaf: sorted(found) for leaf, found in prepared.places.items()},
    )
    greedy = {
        leaf
        for leaf, found in prepared.leaves[name].items()
        if found.OUTPUT_TYPE == "loglikelihood"
    }
    open_side = {"ours": lambda: _ours(checkpoint, greedy), "hf": lambda: _theirs(checkpoint)}
    seconds: dict[str, list[float]] = {side: [] for side in job["sides"]}
    scored: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        models = {side: stack.enter_context(open_side[side]()) for side in job["sides"]}
        for number in range(job["rounds"]):
            for side in job["sides"][:: -1 if number % 2 else 1]:
                started = time.process_time()
                results = simple_evaluate(
                    models[side],
                    tasks=list(drawn),
                    task_manager=manager,
                    samples=drawn,
                    bootstrap_iters=0,
                )
                seconds[side].append(time.process_time() - started)
                scored[side] = _loglikelihoods(results["samples"][name])
    found = {
        "cpu_s": seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "weights_bytes": 4 * _parameters(checkpoint),
        "loglikelihoods": scored,
    }
    Path(answer).write_text(json.dumps(found))


def _loglikelihoods(samples: list[dict[str, Any]]) -> list[float]:
    ordered = sorted(samples, key=lambda sample: sample["doc_id"])
    return [float(response[0][0]) for sample in ordered for response in sample["resps"]]


@contextlib.contextmanager
def _ours(checkpoint: Path, greedy: set[str]) -> Iterator[Any]:
    from transformers import AutoTokenizer

    with engines.open_engine("reference", checkpoint, Serve(max_model_len=MAX_LENGTH)) as engine:
        yield EngineLM(engine, AutoTokenizer.from_pretrained(checkpoint), MAX_LENGTH - 1, greedy)


@contextlib.contextmanager
def _theirs(checkpoint: Path) -> Iterator[Any]:
    from lm_eval.models.huggingface import HFLM

    yield HFLM(
        str(checkpoint), device="cpu", dtype="float32", batch_size=16, max_length=MAX_LENGTH - 1
    )


def _parameters(checkpoint: Path) -> int:
    return sum(
        math.prod(tensor.shape)
        for file in checkpoint.glob("*.safetensors")
        for tensor in read_header(file).values()
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
