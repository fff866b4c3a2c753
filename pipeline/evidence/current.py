"""Is a stored verdict still what the records give? Decided again, and nothing stale believed."""

from __future__ import annotations

import math
from typing import Any

from pipeline import paths, records
from pipeline.benchmark import speed_statistics
from pipeline.errors import ArtifactError
from pipeline.evidence import evaluations, keeping, seals, settings
from pipeline.evidence.candidate import Candidate
from pipeline.records import artifact
from pipeline.source import calibration


def verdict(candidate: Candidate) -> records.Verdict:
    """The verdict, decided again from the evaluations and the recipe as they are now. A stale one
    is no verdict."""
    path = paths.verdict(candidate.name, candidate.variant_name)
    verdict = records.read(path, records.Verdict)
    keeping.verified(candidate.place)
    now = evaluations.verdict_of(candidate)
    stale = [what for what, holds in _holds(candidate, verdict).items() if not holds]
    if _unsealed(now) != _unsealed(verdict):
        stale.append("the verdict is not what the evaluations give")
    stale += seals.broken(seals.kept(candidate))
    if stale:
        raise ArtifactError(
            f"{path}: out of date: {'; '.join(stale)}. Run: dvc repro require@{candidate.name}"
        )
    return verdict


def recheck(candidate: Candidate) -> None:
    """Decides again from the raw evaluations. Raises ArtifactError unless the stored verdict is the
    same, bit for bit."""
    path = paths.verdict(candidate.name, candidate.variant_name)
    if records.read_text(path) != evaluations.verdict_of(candidate).dumps():
        raise ArtifactError(
            f"{path}: not what the evaluations and the recipe give now. Run: dvc repro"
            f" {candidate.stage('gate')}"
        )
    print(f"{candidate.variant_name}: the stored verdict is what the evaluations give, bit for bit")


def _unsealed(verdict: records.Verdict) -> str:
    return verdict.model_copy(update={"seal": None}).dumps()


def _holds(candidate: Candidate, verdict: records.Verdict) -> dict[str, bool]:
    """What must be so for the verdict to be of this recipe, this checkpoint and this artifact, by
    what is wrong otherwise."""
    name, variant_name, variant = candidate.name, candidate.variant_name, candidate.variant
    model, timed_under = (
        candidate.recipe.model,
        settings.timed_under(candidate.recipe, variant_name),
    )
    manifest = records.read(paths.manifest(name, variant_name), records.Manifest)
    pinned = records.read(paths.checkpoint(name), records.Checkpoint)
    samples = records.read(paths.samples(name), records.Samples)
    texts = records.read(paths.texts(name), records.Texts).texts
    reference = records.read(paths.evaluation(name, "reference"), records.Evaluation)
    timed = records.read(paths.benchmark(name, variant_name), records.Benchmark)
    scored = {
        (p.text, p.text_sha256, len(p.windows)) for p in reference.views["reference"].perplexity
    }
    evaluations.stored_logprobs(name)
    hashed = [(samples.sha256, samples.ids), *((text.sha256, text.windows) for text in texts)]
    return {
        "token ids were changed: samples or texts have another SHA-256 than they say": all(
            calibration.ids_hash(ids) == sha256 for sha256, ids in hashed
        ),
        "the benchmark is not what its raw timings give": _follows_from_timings(candidate, timed),
        "another checkpoint was pinned": (
            (pinned.repo, pinned.revision, pinned.path) == (model.repo, model.revision, model.path)
        ),
        "the evaluation is of another artifact": (
            verdict.candidate_sha256 == artifact.digest(manifest.files)
        ),
        "the reference is of another checkpoint": (
            verdict.reference_sha256 == artifact.digest(pinned.files)
        ),
        "the artifact is of another checkpoint": (
            manifest.checkpoint_sha256 == artifact.digest(pinned.files)
        ),
        "it was calibrated on other samples": manifest.samples_sha256 == samples.sha256,
        "the evaluation texts changed": (
            scored == {(text.name, text.sha256, len(text.windows)) for text in texts}
        ),
        "it was made with other settings": (
            (
                manifest.engine,
                manifest.quantizer,
                manifest.weights,
                manifest.requested,
            )
            == (variant.engine, variant.quantizer, variant.weights, variant.settings())
        ),
        "it skipped more layers than allowed": (
            len(manifest.layers.skipped) <= variant.allow_skipped
        ),
        "the benchmark is of another artifact": (
            not timed.measured or timed.artifact_sha256 == verdict.candidate_sha256
        ),
        "it was benchmarked under other settings": (
            not timed.measured or timed.requested == timed_under
        ),
        "it passed and was not benchmarked": timed.measured or verdict.status != "PASS",
        "the gate's word is another": (
            records.read_text(paths.gate(name, variant_name)).strip() == verdict.status
        ),
    }


def _follows_from_timings(candidate: Candidate, timed: records.Benchmark) -> bool:
    """Do the figures follow from the raw timings, which must be there? To the last digits alone
    machines may differ."""
    path = paths.timings(candidate.name, candidate.variant_name)
    if not timed.measured:
        return True
    if not path.is_file():
        return False
    raw = records.read(path, records.Timings)
    again = {
        profile: speed_statistics.levels(replays, candidate.recipe.benchmark.slo)
        for profile, replays in raw.replays.items()
    }
    levels = {profile: summary.levels for profile, summary in timed.profiles.items()}
    return raw.artifact_sha256 == timed.artifact_sha256 and _close(_plain(levels), _plain(again))


def _plain(levels: dict[str, list[records.Level]]) -> dict[str, Any]:
    return {
        profile: [level.model_dump() for level in profile_levels]
        for profile, profile_levels in levels.items()
    }


def _close(ours: Any, theirs: Any) -> bool:
    """Equal, numbers to nine digits."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_close(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_close, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-9)
    return bool(ours == theirs)
