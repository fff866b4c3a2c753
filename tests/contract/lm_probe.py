"""Runs inside the openvino environment: our lm-eval model over the reference engine, and lm-eval's
own hf back-end.

python -m tests.contract.lm_probe CHECKPOINT OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pipeline import engines
from pipeline.errors import EvaluationError
from pipeline.evaluation import tasks
from pipeline.evaluation.lm import EngineLM
from pipeline.recipe import Evaluate, Perplexity, Serve, TaskItems

ITEMS = 40
FOLDER = "recipes/tiny/tasks"
NAMES = ("world_facts", "world_sums")
OTHERS: dict[str, Any] = {
    "two_filters": TaskItems(items=8, filter="flexible-extract", metric=None),
    "only_acc_norm": TaskItems(items=8, filter=None, metric=None),
}
SERVE = Serve(max_model_len=256, max_num_seqs=8)
TEXTS = ["Who lives here? " * 3, "Question: What is 10 plus 20?\nAnswer: 30.\n" * 40]


class _Request:
    """The parts of an lm-eval Instance that the rolling and greedy calls read."""

    def __init__(self, *args: Any, task_name: str = "t") -> None:
        self.args, self.task_name, self.doc_id = args, task_name, 0


def _refused(ours: EngineLM, most: int) -> str:
    try:
        ours.generate_until([_Request(TEXTS[0], {"until": ["."], "max_gen_toks": most})])
    except EvaluationError as error:
        return str(error)
    return ""


def main(checkpoint: str, out: str) -> None:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    evaluate = Evaluate(
        perplexity=Perplexity(texts=["x"], window=8),
        tasks=dict.fromkeys(NAMES, ITEMS),
        task_path=FOLDER,
        seed=3,
    )
    hf = HFLM(
        checkpoint,
        device="cpu",
        dtype="float32",
        batch_size=8,
        max_length=SERVE.max_model_len - 1,
        add_bos_token=True,
    )
    pairs = [
        _Request("Question: What is 10 plus 20?\nAnswer:", " 30."),
        _Request("Question: What is 10 plus 20?\nAnswer:", " 31."),
    ]
    rolling = [_Request(text) for text in TEXTS]
    with engines.open_engine("reference", Path(checkpoint), SERVE) as engine:
        measured = tasks.measure(
            engine,
            Path(checkpoint),
            evaluate,
            SERVE,
            tasks.prepare(evaluate, SERVE, dict.fromkeys(NAMES, (0, ITEMS))),
        )
        other = Evaluate(
            perplexity=Perplexity(texts=["x"], window=8),
            tasks=OTHERS,
            task_path="tests/contract/tasks",
        )
        spans: dict[str, Any] = {name: (0, asked.items) for name, asked in OTHERS.items()}
        others = tasks.measure(
            engine, Path(checkpoint), other, SERVE, tasks.prepare(other, SERVE, spans)
        )
        ours = EngineLM(engine, hf.tokenizer, SERVE.max_model_len - 1, {"t"})
        found = {
            "pairs": ours.loglikelihood(pairs),
            "rolling": ours.loglikelihood_rolling(rolling),
            "generated": ours.generate_until(
                [
                    _Request(
                        "Question: What is 10 plus 20?\nAnswer:",
                        {"until": ["."], "max_gen_toks": 8},
                    )
                ]
            ),
        }
        found["cut"] = [
            ours.cut,
            _refused(ours, SERVE.max_model_len - 2),
            ours.cut,
            _refused(ours, SERVE.max_model_len - 1),
            ours.cut,
        ]
    found["others"] = {
        task.name: [task.metric, task.filter, [item.score for item in task.items]]
        for task in others
    }
    drawn = {task.name: sorted(item.doc_id for item in task.items) for task in measured}
    manager = TaskManager(include_path=FOLDER, include_defaults=False)
    results = simple_evaluate(
        hf, tasks=list(NAMES), task_manager=manager, samples=drawn, bootstrap_iters=0
    )
    theirs = {
        name: {
            s["doc_id"]: [s["acc"], s["doc_hash"], s["prompt_hash"]]
            for s in results["samples"][name]
        }
        for name in NAMES
    }
    found["ours"] = {
        task.name: {i.doc_id: [i.score, i.doc_hash, i.prompt_hash] for i in task.items}
        for task in measured
    }
    found["theirs"] = theirs
    # With add_bos_token the hf back-end scores a second BOS after its own prefix; without, it is
    # the same as ours.
    plain = HFLM(
        hf.model,
        tokenizer=hf.tokenizer,
        batch_size=1,
        max_length=SERVE.max_model_len - 1,
        add_bos_token=False,
    )
    found["their_rolling"] = plain.loglikelihood_rolling(rolling)
    found["their_pairs"] = hf.loglikelihood(pairs)
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
