"""The benchmark stage: every variant that passed, in rounds, and every unquantized one beside
those. Control side.

A round replays the closed loads on every variant; the next round goes through them backwards (A B B
A), so that a machine that slows down falls on all of them. The open loads follow in rounds of their
own, at rates that the closed ones reached. A variant stays loaded between its turns as long as
memory has room for the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline import paths, records
from pipeline.benchmark import speed_statistics
from pipeline.engines import host
from pipeline.evidence import keeping, opened, seals, settings
from pipeline.planning import estimate
from pipeline.recipe import Recipe
from pipeline.records import Benchmark, Profile, Replay, Trace, artifact
from pipeline.runtime import costs, machine
from pipeline.stages.benchmark_pool import Measured, Pool, Turn, matched

NOBODY = "no quantized variant passed"


def run(name: str) -> None:
    """The benchmark stage: a record and the raw timings of every variant, also of those that did
    not pass."""
    recipe = opened.recipe(name)
    words = {
        variant: records.read_text(paths.gate(name, variant)).strip() for variant in recipe.variants
    }
    timed = _timed(recipe, words)
    if timed:
        measure(recipe, timed)
    paths.timings(name, "").parent.mkdir(parents=True, exist_ok=True)  # DVC's output, empty or not
    for variant in recipe.variants.keys() - set(timed):
        verdict = f"the gate says {words[variant]}"
        quantized = recipe.variants[variant].quantizer is not None
        reason = verdict if quantized else f"{verdict}, and {NOBODY}"
        _write_unmeasured(recipe, variant, reason)


def _timed(recipe: Recipe, words: dict[str, str]) -> list[str]:
    """What passed, since it may be shipped; and the unquantized, where a quantized one is to be
    compared with them."""
    passed = {variant for variant, word in words.items() if word == "PASS"}
    lacking = host.lacking(recipe)
    compared = any(recipe.variants[variant].quantizer for variant in passed)
    alone = not any(variant.quantizer for variant in recipe.variants.values())
    return [
        variant
        for variant, asked in recipe.variants.items()
        if variant in passed
        or (asked.quantizer is None and (compared or alone) and variant not in lacking)
    ]


def measure(recipe: Recipe, variants: list[str]) -> None:
    """Times these variants against each other and writes their records."""
    trace, before = records.read(paths.trace(recipe.name), Trace), machine.describe()
    stage = f"benchmark@{recipe.name}"
    served = [recipe.variants[variant] for variant in variants]
    costs.require_memory(
        stage, max(estimate.needs_bytes(recipe, "evaluate", one) for one in served)
    )
    with artifact.stage_folder(stage) as folder:
        measured = _rounds(recipe, variants, folder)
    for variant in variants:
        _write(
            recipe,
            variant,
            trace,
            {turn.profile: m for turn, m in measured.items() if turn.variant == variant},
            before,
        )


def _rounds(recipe: Recipe, variants: list[str], folder: Path) -> dict[Turn, Measured]:
    turns = [
        Turn(variant, profile) for variant in variants for profile in _profiles(recipe, variant)
    ]
    measured = {turn: Measured() for turn in turns}
    pool = Pool(recipe, folder, measured)
    closed: list[dict[str, Any]] = [
        {"concurrency": concurrency} for concurrency in recipe.benchmark.concurrency
    ]
    deployed = [turn for turn in turns if turn.profile == "deployed"]
    total = len(turns) + (len(deployed) if recipe.benchmark.open_loop else 0)
    try:
        with tqdm(
            total=total * recipe.benchmark.repeats, desc="benchmark", unit="turn", mininterval=2
        ) as bar:
            _take_turns(turns, recipe, pool, lambda turn: closed, measured, bar)
            if recipe.benchmark.open_loop:
                _take_turns(
                    deployed,
                    recipe,
                    pool,
                    lambda turn: _open_loads(recipe, measured[turn].replays),
                    measured,
                    bar,
                )
        pool.close()
    finally:
        pool.kill()
    return measured


def _profiles(recipe: Recipe, variant: str) -> list[str]:
    """vLLM has no precision of its own to take away: as deployed it is what OpenVINO's is matched
    to, where the processor has it."""
    own = (
        recipe.benchmark.matched
        and recipe.variants[variant].served_by.own_precision
        and recipe.serve.precision == "engine"
        and _unmatched(recipe, variant) is None
    )
    return ["deployed", "matched"] if own else ["deployed"]


def _unmatched(recipe: Recipe, variant: str) -> str | None:
    """Why this machine cannot run a variant at that precision, if it cannot."""
    return host.lacks(recipe.variants[variant], matched(recipe.serve_for(variant)))


def _take_turns(
    turns: list[Turn],
    recipe: Recipe,
    pool: Pool,
    loads: Callable[[Turn], list[dict[str, Any]]],
    measured: dict[Turn, Measured],
    bar: Any,
) -> None:
    """All repeats of some loads, the variants taking turns: A B B A."""
    asked = {turn: loads(turn) for turn in turns}
    for repeat in range(recipe.benchmark.repeats):
        for turn in turns if repeat % 2 == 0 else reversed(turns):
            answer = pool.open(turn).ask({"loads": asked[turn], "repeat": repeat})
            measured[turn].replays += [
                Replay.model_validate(replay) for replay in answer["replays"]
            ]
            bar.update()


def _open_loads(recipe: Recipe, closed: list[Replay]) -> list[dict[str, Any]]:
    """At fractions of the requests per second that all repeats of the closed loop reached."""
    reached = speed_statistics.highest_rate(closed)
    return [{"fraction": part, "rate_per_s": part * reached} for part in recipe.benchmark.open_loop]


def _write(
    recipe: Recipe,
    variant: str,
    trace: Trace,
    by_profile: dict[str, Measured],
    host: dict[str, Any],
) -> None:
    manifest = records.read(paths.manifest(recipe.name, variant), records.Manifest)
    profiles = {
        profile: Profile(
            settings=measured.settings,
            load_s=speed_statistics.estimate(measured.load_s),
            peak_memory_bytes=max(measured.peaks_bytes),
            levels=speed_statistics.levels(measured.replays, recipe.benchmark.slo),
        )
        for profile, measured in by_profile.items()
    }
    digest = artifact.digest(manifest.files)
    raw = {profile: measured.replays for profile, measured in by_profile.items()}
    timings = records.Timings(
        recipe=recipe.name, variant=variant, artifact_sha256=digest, replays=raw
    )
    timed = Benchmark(
        recipe=recipe.name,
        variant=variant,
        engine=manifest.engine,
        over="in process",
        measured=True,
        reason="the gate says PASS" if manifest.quantizer else "the baseline of its engine",
        requested=settings.timed_under(recipe, variant),
        artifact_sha256=digest,
        device=by_profile["deployed"].settings["device"],
        size_bytes=manifest.size_bytes,
        versions=by_profile["deployed"].versions,
        machine=host,
        trace_sha256=trace.sha256,
        profiles=profiles,
        costs=speed_statistics.costs(profiles["deployed"], recipe.benchmark.price),
        notices=[*speed_statistics.notices(profiles), *_notices(recipe, variant)],
    )
    keeping.keep_timings(timings, timed)
    for level in speed_statistics.closed_levels(profiles["deployed"]):
        print(
            f"{variant}: {level.output_tokens_per_s.median:.1f} tokens/s at concurrency"
            f" {level.concurrency}"
        )


def _notices(recipe: Recipe, variant: str) -> list[str]:
    asked = recipe.benchmark.matched and recipe.variants[variant].served_by.own_precision
    reason = _unmatched(recipe, variant) if asked else None
    return [f"not timed at matched precision: {reason}"] if reason else []


def _write_unmeasured(recipe: Recipe, variant: str, reason: str) -> None:
    engine = recipe.variants[variant].engine
    untimed = Benchmark(
        recipe=recipe.name,
        variant=variant,
        engine=engine,
        over="in process",
        measured=False,
        reason=reason,
    )
    seals.sealed(untimed, {}).write(paths.benchmark(recipe.name, variant))
    paths.timings(recipe.name, variant).unlink(missing_ok=True)
    print(f"{variant}: not benchmarked: {reason}")
