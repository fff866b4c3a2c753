"""Measures a drawn part of an evaluation again, as it was measured the first time. Worker side."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from pipeline import engines
from pipeline.evaluation import jobs, tasks, text
from pipeline.recipe import Evaluate, Serve
from pipeline.records import Texts, View, read
from pipeline.release.signoff.drawing import some


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Worker verb: both views of job["share"] of the windows, and the items in job["spans"], as
    JSON. Raises EvaluationError."""
    artifact, logprobs, share = Path(job["artifact"]), Path(job["logprobs"]), job["share"]
    evaluate, serve = Evaluate.model_validate(job["evaluate"]), Serve.model_validate(job["serve"])
    texts, plan, rng = (
        read(Path(job["texts"]), Texts),
        evaluate.divergence,
        random.Random(job["seed"]),
    )
    prepared = tasks.prepare(evaluate, serve, job["spans"])

    def compared(count: int) -> list[int]:
        return some(plan.chosen(count), share, rng)

    def scored(count: int) -> list[int]:
        rest = sorted({*range(count)} - {*plan.chosen(count)})
        return sorted(compared(count) + some(rest, share, rng))

    with engines.open_engine(job["engine"], artifact, serve) as engine:
        served = text.measure(
            engine, texts, plan, logprobs, lambda ids: "", "again deployed", scored
        )
        deployed = View(
            settings=engine.settings(), perplexity=served.perplexity, divergence=served.divergence
        )
        items = tasks.measure(engine, Path(job["checkpoint"]), evaluate, serve, prepared)
    with engines.open_weights(job["engine"], artifact, serve) as model:
        exact = text.measure(
            model, texts, plan, logprobs, lambda ids: "", "again weights", compared
        )
        weights = View(
            settings={"precision": "float32"},
            perplexity=exact.perplexity,
            divergence=exact.divergence,
        )
    return {
        "versions": jobs.versions(job["engine"]),
        "views": {"deployed": deployed.model_dump(), "weights": weights.model_dump()},
        "tasks": [task.model_dump() for task in items],
    }
