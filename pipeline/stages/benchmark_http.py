"""The benchmark over HTTP: `quantgate benchmark RECIPE --http VARIANT`. Control side.

The same trace, loads and statistics as in process, on the engine's server, which is started for it,
or on one that runs already (--url): OpenVINO Model Server, or any other OpenAI-compatible one."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pipeline import engines, paths, records
from pipeline.benchmark import http, speed_statistics
from pipeline.engines import server
from pipeline.engines.listed import Models
from pipeline.engines.server import Served
from pipeline.errors import EvaluationError, RecipeError, Rejected
from pipeline.evidence import keeping, opened, settings
from pipeline.evidence.candidate import Candidate
from pipeline.recipe import Recipe, Variant
from pipeline.records import Benchmark, Manifest, Profile, Replay, Trace, artifact
from pipeline.runtime import machine
from pipeline.runtime.process import Session
from pipeline.source import checkpoint
from pipeline.stages import benchmark

REQUEST_TIMEOUT_S = 1800.0
RETOKENIZED = (
    "The server took the prompts as text, as OpenVINO Model Server does, and tokenized them itself:"
    " {changed} of {all} requests had another number of prompt tokens there than in the trace."
)
UNVERIFIED = (
    "Measured on a server that was running already{served}, on what machine, under which settings"
    " and whether it caches prefixes was not verified; its load time and memory are not known. What"
    " is said of other processes is about the machine that sent the requests."
)
LISTED = ", which lists this artifact's digest as what it serves"
NOT_LISTED = ": that it serves this artifact"
SHARED = (
    "The load generator ran on the same machine as the server; both together count as the"
    " benchmark's own processes."
)


class Timed(NamedTuple):
    replays: list[Replay]
    profile: Profile
    versions: dict[str, str]


def command(name: str, served: str | None, url: str | None, model: str | None) -> None:
    """`quantgate benchmark`: all that passed, in process, or the variant `served` over HTTP. Raises
    RecipeError."""
    if (url and not served) or (model and not url):
        raise RecipeError(
            "--url needs --http VARIANT, and --model needs --url. See: quantgate benchmark --help"
        )
    if served:
        run(name, served, url, model)
    else:
        benchmark.run(name)


def run(name: str, variant_name: str, url: str | None, model: str | None) -> None:
    """Times one variant that passed over HTTP. Raises Rejected if it did not pass, EvaluationError
    if nothing answers."""
    candidate = opened.candidate(name, variant_name)
    recipe, variant = candidate.recipe, candidate.variant
    reason = _refuse(name, variant_name, variant, url)
    trace = records.read(paths.trace(name), Trace)
    host = machine.describe()
    with artifact.stage_folder(f"http@{name}--{variant_name}") as folder:
        if url is None:
            timed, known = _on_own_server(recipe, variant_name, folder)
        else:
            timed, known = _on_given_server(candidate, _base(url), model, folder)
    notices = speed_statistics.notices({"deployed": timed.profile})
    notices += [SHARED] if url is None else _notices(timed, trace, known)
    records.Timings(
        recipe=name,
        variant=variant_name,
        artifact_sha256=known.get("artifact_sha256"),
        replays={"deployed": timed.replays},
    ).write(
        paths.http(name, f"{variant_name}.timings")
    )  # not among the stage's: DVC owns that folder
    Benchmark(
        recipe=name,
        variant=variant_name,
        engine=variant.engine,
        over="http",
        measured=True,
        reason=reason,
        requested=settings.timed_under(recipe, variant_name),
        versions=timed.versions,
        machine=host if url is None else {},
        trace_sha256=trace.sha256,
        profiles={"deployed": timed.profile},
        costs=speed_statistics.costs(timed.profile, recipe.benchmark.price) if url is None else [],
        notices=notices,
        **known,
    ).write(paths.http(name, variant_name))
    for level in timed.profile.levels:
        print(
            f"{variant_name}: {level.output_tokens_per_s.median:.1f} tokens/s over HTTP,"
            f" {speed_statistics.label(level)}"
        )
    for notice in notices:
        print(f"note: {notice}")


def _refuse(name: str, variant_name: str, variant: Variant, url: str | None) -> str:
    """Why the variant may be timed; raises where it may not, or nothing here can serve it."""
    if variant.quantizer is not None:
        word = records.read_text(paths.gate(name, variant_name)).strip()
        if word != "PASS":
            raise Rejected(
                f"{variant_name}: the gate says {word}, and what did not pass is not benchmarked."
            )
    if url is None and not variant.served_by.servers:
        raise EvaluationError(
            f"{variant_name}: quantgate starts no server of {variant.served_by.name}. Serve the"
            f" folder {paths.model(name, variant_name)} otherwise, and give the address: --url"
            " http://HOST:PORT/v1 --model NAME"
        )
    return "the gate says PASS" if variant.quantizer else "the baseline of its engine"


def _on_own_server(recipe: Recipe, variant_name: str, folder: Path) -> tuple[Timed, dict[str, Any]]:
    model, manifest = keeping.verified(paths.place(recipe.name, variant_name))
    what = Served(
        manifest.engine,
        model,
        recipe.serve_for(variant_name),
        variant_name,
        artifact.digest(manifest.files),
    )
    with server.served(what, folder) as running:
        print(f"{variant_name}: ready after {running.load_s:.0f} s", flush=True)
        job = {"url": running.url, "model": running.model, "tokenizer": None}
        replays, versions = _replays(recipe, job, folder)
        peak = running.memory.stop().resident_bytes
    settings = server.of(what).settings(what.serve)
    profile = Profile(
        settings=settings | _generator(versions),
        load_s=speed_statistics.estimate([running.load_s]),
        peak_memory_bytes=peak,
        levels=speed_statistics.levels(replays, recipe.benchmark.slo),
    )
    known = {
        "artifact_sha256": what.digest,
        "size_bytes": manifest.size_bytes,
        "device": settings["device"],
    }
    return Timed(replays, profile, versions), known


def _on_given_server(
    candidate: Candidate, url: str, model: str | None, folder: Path
) -> tuple[Timed, dict[str, Any]]:
    """OpenVINO Model Server refuses token ids ("prompt is not a string"): it gets the text that
    they stand for. A server that lists the artifact's digest is asked by that name."""
    recipe = candidate.recipe
    tokenizer = (
        str(checkpoint.open_pinned(recipe.name, recipe.model)[0])
        if not candidate.variant.served_by.takes_token_ids
        else None
    )
    digest = artifact.digest(records.read(candidate.place.manifest, Manifest).files)
    pinned = None if model else _listed(url).pinned(digest)
    job = {"url": url, "model": model or pinned or _only_model(url), "tokenizer": tokenizer}
    replays, versions = _replays(recipe, job, folder)
    settings = {
        "url": url,
        "model": job["model"],
        "prompts": "text" if tokenizer else "token ids",
        **_generator(versions),
    }
    levels = speed_statistics.levels(replays, recipe.benchmark.slo)
    profile = Profile(settings=settings, load_s=None, peak_memory_bytes=None, levels=levels)
    return Timed(replays, profile, {}), {"artifact_sha256": digest} if pinned else {}


def _generator(versions: dict[str, str]) -> dict[str, str]:
    return {"load_generator": f"vllm bench serve {versions['vllm']}"}


def _replays(
    recipe: Recipe, job: dict[str, Any], folder: Path
) -> tuple[list[Replay], dict[str, str]]:
    """All repeats of the closed loads, then of the open ones, at fractions of the requests per
    second that those reached."""
    plan = recipe.benchmark
    job |= {
        "trace": str(paths.trace(recipe.name)),
        "timeout_s": REQUEST_TIMEOUT_S,
        "pid": os.getpid(),
    }
    with closing(
        Session(engines.ENGINES["vllm"].environment, "load", job, folder / "job.json")
    ) as session:
        versions = session.ask()["versions"]
        replays = _ask(
            session,
            [{"concurrency": concurrency} for concurrency in plan.concurrency],
            plan.repeats,
        )
        if plan.open_loop:
            reached = speed_statistics.highest_rate(replays)
            replays += _ask(
                session,
                [{"fraction": part, "rate_per_s": part * reached} for part in plan.open_loop],
                plan.repeats,
            )
    return replays, versions


def _ask(session: Session, loads: list[dict[str, Any]], repeats: int) -> list[Replay]:
    answers = [session.ask({"loads": loads, "repeat": repeat}) for repeat in range(repeats)]
    return [Replay.model_validate(replay) for answer in answers for replay in answer["replays"]]


def _notices(timed: Timed, trace: Trace, known: dict[str, Any]) -> list[str]:
    unverified = UNVERIFIED.format(served=LISTED if known else NOT_LISTED)
    if timed.profile.settings["prompts"] == "token ids":
        return [unverified]
    lengths = [len(request.prompt) for request in trace.requests]
    pairs = zip(timed.replays[0].requests, lengths, strict=True)
    changed = sum(request.prompt_tokens != length for request, length in pairs)
    return [unverified, RETOKENIZED.format(changed=changed, all=len(lengths))]


def _base(url: str) -> str:
    """The address up to the version: /v1 unless said. It is recorded, so that nothing secret may be
    in it."""
    parts = urlsplit(url)
    try:
        parts.port  # noqa: B018  (urlsplit looks at it only when asked)
    except ValueError as error:
        raise EvaluationError(
            f"--url: {error}. Expected an address such as http://HOST:PORT/v1."
        ) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise EvaluationError(
            "--url: found something else than an address such as http://HOST:PORT/v1."
        )
    if parts.username is not None or parts.password is not None:
        raise EvaluationError(
            "--url: holds a user name or password. Put the server's token into OPENAI_API_KEY"
            " instead."
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def _listed(url: str) -> Models:
    try:
        return Models.model_validate_json(http.call(f"{url}/models"))
    except OSError as error:
        raise EvaluationError(
            f"{url}/models: no answer ({error}). Start the server, or correct the address in --url."
        ) from error
    except ValueError as error:
        found = " ".join(str(error).split())[:200]
        raise EvaluationError(
            f"{url}/models: did not say which models there are ({found}). Name one: --model NAME"
        ) from error


def _only_model(url: str) -> str:
    names = [model.id for model in _listed(url).data]
    if len(names) != 1:
        raise EvaluationError(
            f"{url}: serves {', '.join(names) or 'no model'}. Name one: --model NAME"
        )
    return names[0]
