"""Measures one artifact on its engine: load check, perplexity, tasks, in one engine start. Worker side."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline import engines, loadcheck
from pipeline.evaluation import perplexity, tasks
from pipeline.recipe import Evaluate, Serve
from pipeline.records import Texts, read


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Worker verb: returns the measured parts of an Evaluation as JSON. Raises ArtifactError, EvaluationError."""
    artifact, source = Path(job["artifact"]), Path(job["checkpoint"])
    evaluate, serve = Evaluate.model_validate(job["evaluate"]), Serve.model_validate(job["serve"])
    texts = read(Path(job["texts"]), Texts)
    prepared = tasks.prepare(evaluate)
    checked = None
    if job["engine"] != "reference":
        checked = loadcheck.check_files(artifact, source, job["engine"], job["stored_types"])
    with engines.open_engine(job["engine"], artifact, serve) as engine:
        if checked is not None:
            checked = checked.model_copy(update={"generated": loadcheck.check_generates(engine, source)})
        measured_perplexity = perplexity.measure(engine, texts)
        measured_tasks = tasks.measure(engine, source, evaluate, serve, prepared)
        settings = engine.settings()
    row = engines.ENGINES[job["engine"]]
    return {
        "settings": settings,
        "versions": {name: version(name) for name in (*row.packages, "lm_eval")},
        "load_check": checked.model_dump() if checked else None,
        "perplexity": [item.model_dump() for item in measured_perplexity],
        "tasks": [item.model_dump() for item in measured_tasks],
    }
