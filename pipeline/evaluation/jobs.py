"""Measures one artifact on its engine: load check, texts in both views, tasks. Worker side.

`deployed` is the engine exactly as it serves; `weights` is the same artifact in float32, which
shows what quantization alone did. Both are compared with the float32 reference, whose next-token
distributions lie in a folder of .npy files."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline import engines
from pipeline.engines import Engine, Prompt
from pipeline.errors import EvaluationError
from pipeline.evaluation import loadcheck, tasks, text
from pipeline.formats.fidelity import Claim
from pipeline.recipe import Evaluate, Serve
from pipeline.records import Task, Texts, View, joined, read

AGREEMENT_NATS = (
    0.02  # mean per token; the two ways differ by how rows are batched, and by nothing else
)


def work(job: dict[str, Any], asked: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Worker verb of a session: the measured parts of an Evaluation as JSON. Raises ArtifactError,
    EvaluationError.

    With job["only_files"] the load check is all. With job["glance"], a Glance comes first. At each
    of job["looks"] but the last comes what the texts alone said as served; then that with the items
    of job["spans"], and again with more, as often as it is asked for spans; in the end everything.
    It goes on when it is asked to."""
    artifact, source, logprobs = (
        Path(job["artifact"]),
        Path(job["checkpoint"]),
        Path(job["logprobs"]),
    )
    evaluate, serve = Evaluate.model_validate(job["evaluate"]), Serve.model_validate(job["serve"])
    texts = read(Path(job["texts"]), Texts)
    plan, decode = evaluate.divergence, _decoder(source)
    prepared = tasks.prepare(evaluate, serve, job["spans"])
    checked = loadcheck.check_files(
        artifact,
        source,
        job["engine"],
        job["stored_types"],
        Claim(job["weights"], job["simulated"]),
    )
    if job.get("only_files"):
        files = {"versions": versions(job["engine"]), "load_check": checked.model_dump()}
        yield files | {"views": {}, "tasks": []}
        return
    with engines.open_engine(job["engine"], artifact, serve) as engine:
        checked = checked.model_copy(
            update={"generated": loadcheck.check_generates(engine, source)}
        )
        checks = {"versions": versions(job["engine"]), "load_check": checked.model_dump()}
        if "glance" in job:
            yield {"kl_nats": text.glance(engine, texts, plan, logprobs, job["glance"])}
            if next(asked, None) is None:
                return
        _require_agreement(engine, texts)
        scored = partial(text.measure, engine, texts, plan, logprobs, decode, "deployed")
        for look, measured in enumerate(text.grown(scored, job["looks"], evaluate.seed), 1):
            deployed = View(
                settings=engine.settings(),
                perplexity=measured.perplexity,
                divergence=measured.divergence,
            )
            if look < len(job["looks"]):
                yield checks | {"views": {"deployed": deployed.model_dump()}, "tasks": []}
                if next(asked, None) is None:
                    return
        if long := evaluate.long_windows(serve.max_model_len):
            deployed = deployed.model_copy(
                update={"long_context": text.measure_long(engine, texts, long, logprobs, decode)}
            )
        items: list[Task] = []
        more: tasks.Prepared | None = prepared
        while more:
            items = joined(items, tasks.measure(engine, source, evaluate, serve, more))
            yield checks | {
                "views": {"deployed": deployed.model_dump()},
                "tasks": [task.model_dump() for task in items],
            }
            if (question := next(asked, None)) is None:
                return
            spans = question.get("spans")
            more = tasks.prepare(evaluate, serve, spans) if spans else None
    with engines.open_weights(job["engine"], artifact, serve) as model:
        measured = text.measure(model, texts, plan, logprobs, decode, "weights", plan.chosen)
        weights = View(
            settings={"precision": "float32"},
            perplexity=measured.perplexity,
            divergence=measured.divergence,
        )
    yield checks | {
        "views": {"deployed": deployed.model_dump(), "weights": weights.model_dump()},
        "tasks": [task.model_dump() for task in items],
    }


def reference(job: dict[str, Any]) -> dict[str, Any]:
    """Worker verb: scores the source checkpoint in float32 and writes its distributions into
    job["logprobs"]."""
    source = Path(job["checkpoint"])
    evaluate, serve = Evaluate.model_validate(job["evaluate"]), Serve.model_validate(job["serve"])
    texts = read(Path(job["texts"]), Texts)
    prepared = tasks.prepare(evaluate, serve, job["spans"])
    with engines.open_engine("reference", source, serve) as engine:
        perplexity = text.write_reference(engine, texts, evaluate.divergence, Path(job["logprobs"]))
        if long := evaluate.long_windows(serve.max_model_len):
            text.write_long_reference(engine, texts, long, Path(job["logprobs"]))
        _require_agreement(engine, texts)
        measured_tasks = tasks.measure(engine, source, evaluate, serve, prepared, texts=True)
        view = View(settings=engine.settings(), perplexity=perplexity, divergence=[])
    return {
        "versions": versions("reference"),
        "load_check": None,
        "views": {"reference": view.model_dump()},
        "tasks": [item.model_dump() for item in measured_tasks],
    }


def extend(job: dict[str, Any], asked: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Worker verb of a session: measures the spans of items that it is asked for, of an artifact
    that was evaluated before."""
    artifact, source = Path(job["artifact"]), Path(job["checkpoint"])
    evaluate, serve = Evaluate.model_validate(job["evaluate"]), Serve.model_validate(job["serve"])
    with engines.open_engine(job["engine"], artifact, serve) as engine:
        for question in asked:
            start = time.monotonic()
            measured = tasks.measure(
                engine, source, evaluate, serve, tasks.prepare(evaluate, serve, question["spans"])
            )
            items = [item.model_dump() for item in measured]
            yield {
                "versions": versions(job["engine"]),
                "tasks": items,
                "wall_s": time.monotonic() - start,
            }


def versions(engine: str) -> dict[str, str]:
    return {name: version(name) for name in (*engines.ENGINES[engine].packages, "lm_eval")}


def _decoder(source: Path) -> text.Decode:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    return lambda ids: str(tokenizer.decode(ids))


def _require_agreement(engine: Engine, texts: Texts) -> None:
    """The distributions, which answer the tasks too, must be those of the engine's own scoring.
    Raises EvaluationError.

    The same tokens are put to both: in a KV cache that is quantized by blocks a later token moves
    the scores of earlier ones."""
    name, ids = texts.texts[0].name, texts.texts[0].windows[0][:-1]
    scored: list[float] = []

    def visit(_: int, first: int, logprobs: Any) -> None:
        targets = ids[first + 1 : first + 1 + len(logprobs)]
        scored.extend(logprobs[range(len(targets)), targets].tolist())

    engine.distributions([Prompt(ids)], visit)
    ours, theirs = -math.fsum(scored), -math.fsum(engine.echo(ids))
    apart = abs(ours - theirs) / len(scored)
    if not apart <= AGREEMENT_NATS:
        raise EvaluationError(
            f"the engine scores the first window of {name!r} with {theirs:.3f} nats, its"
            f" distributions with {ours:.3f}: {apart:.4f} nats per token apart, expected at most"
            f" {AGREEMENT_NATS}."
        )
