"""What is measured of a rung: a first look and, where that is not hopeless, everything; its speed,
where the goal asks for it."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import engines, paths, records
from pipeline.benchmark import speed_statistics
from pipeline.engines import host
from pipeline.errors import EvaluationError
from pipeline.evidence import evaluations, keeping
from pipeline.gate import limits, texts
from pipeline.planning import estimate
from pipeline.records import Estimate, Evaluation, Glance, Manifest, Replay, artifact
from pipeline.runtime import costs, process
from pipeline.source import checkpoint
from pipeline.stages import drawing, measuring
from pipeline.stages.climb.rung import Rung, content

WINDOWS = 16  # of each text at first look
REPEATS = 3


class Look(NamedTuple):
    """Of the worst text, in nats per token: mean KL, and its lower bound. `hopeless`: that is
    beyond the limit."""

    mean_kl: float
    low: float
    hopeless: bool

    def sentence(self, limit: float) -> str:
        return (
            f"mean KL of {WINDOWS} windows is {self.mean_kl:.4g} nats per token, at least"
            f" {self.low:.4g}; the limit is {limit:g}"
        )


def first_look(rung: Rung, folder: Path) -> Look:
    """Looks, and evaluates what is not hopeless; or what was measured before. Raises what the
    evaluation raises."""
    path = _glance(rung)
    if path.is_file():
        look = _judged(rung, records.read(path, Glance))
        if look.hopeless or rung.candidate.place.evaluation.is_file():
            return look
    return evaluate(rung, folder, whole=False)


def evaluate(rung: Rung, folder: Path, whole: bool) -> Look:
    """One load of the engine for the first look and the rest. `whole`: also where it is
    hopeless."""
    _require_instructions(rung)
    recipe, variant = rung.candidate.recipe, rung.candidate.variant
    costs.require_memory(
        f"climb@{rung.candidate.name}--{rung.candidate.variant_name}",
        estimate.needs_bytes(recipe, "evaluate", variant),
    )
    source, _ = checkpoint.open_pinned(rung.candidate.name, rung.candidate.recipe.model)
    job = measuring.evaluation_job(rung.candidate, source) | {"glance": WINDOWS, "looks": [1.0]}
    start = time.monotonic()
    session = process.Session(
        engines.ENGINES[rung.candidate.variant.engine].environment,
        "evaluate",
        job,
        folder / "job.json",
        offline=False,
    )
    try:
        seen = Glance.model_validate(session.ask())
        look = _judged(rung, seen)
        value = {} if look.hopeless and not whole else _whole(rung, session)
    finally:
        peak_bytes = session.close()
    seen.write(_glance(rung))
    if value:
        value["logprobs_sha256"] = evaluations.stored_logprobs(rung.candidate.name)
        done = process.Finished(value, time.monotonic() - start, peak_bytes)
        digest = artifact.digest(records.read(rung.candidate.place.manifest, Manifest).files)
        keeping.keep_evaluation(
            measuring.record(rung.candidate, digest, done, None), rung.candidate.place
        )
    return look


def _whole(rung: Rung, session: process.Session) -> dict[str, Any]:
    theirs = records.read(paths.evaluation(rung.candidate.name, "reference"), Evaluation)
    held_to = limits.of(rung.candidate.recipe, rung.candidate.variant)
    return drawing.decided(session, session.ask({}), theirs, held_to)


def _require_instructions(rung: Rung) -> None:
    """Raises EvaluationError for a rung that this machine's processor cannot run."""
    serve = rung.candidate.recipe.serve_for(rung.candidate.variant_name)
    if lacking := host.lacks(rung.candidate.variant, serve):
        raise EvaluationError(f"not measured: {lacking}")


def _glance(rung: Rung) -> Path:
    return rung.measured / "glance.json"


def _judged(rung: Rung, seen: Glance) -> Look:
    held_to = limits.of(rung.candidate.recipe, rung.candidate.variant)
    looks = [texts.first_look(kl_nats, held_to) for kl_nats in seen.kl_nats.values()]
    worst, _ = max(looks, key=lambda look: look[0].low)
    return Look(worst.value, worst.low, any(status == "FAIL" for _, status in looks))


def speed(rung: Rung, folder: Path) -> Estimate:
    """Output tokens/s as served, at the recipe's lowest concurrency: enough to order rungs; the
    benchmark times what was taken."""
    trace = paths.trace(rung.candidate.name)
    path = rung.measured / f"speed-{content(trace)[:16]}.json"
    if path.is_file():
        return records.read(path, Estimate)
    _require_instructions(rung)
    rung.make()
    serve, engine = (
        rung.candidate.recipe.serve_for(rung.candidate.variant_name),
        rung.candidate.variant.engine,
    )
    job = {
        "engine": engine,
        "artifact": str(rung.candidate.place.model),
        "serve": serve.model_dump(),
        "trace": str(trace),
    }
    load = {"concurrency": min(rung.candidate.recipe.benchmark.concurrency)}
    with closing(
        process.Session(engines.ENGINES[engine].environment, "session", job, folder / "speed.json")
    ) as session:
        session.ask()
        answers = [session.ask({"loads": [load], "repeat": repeat}) for repeat in range(REPEATS)]
    replays = [Replay.model_validate(replay) for answer in answers for replay in answer["replays"]]
    estimate = speed_statistics.levels(replays, None)[0].output_tokens_per_s
    estimate.write(path)
    return estimate
