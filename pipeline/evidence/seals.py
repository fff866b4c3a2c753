"""Records, sealed by the stage that writes them: the SHA-256 of what a record says, and of what it
was made from.

A seal shows what was changed, exchanged or taken away after it was written. It is a hash and no
signature: who can write a record can seal it again, and only measuring again shows that
(pipeline/release/signoff/remeasure).

How long a stage took and how much memory are no part of what a record says: who makes the same
again says the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pipeline import paths, reading, records
from pipeline.errors import ArtifactError
from pipeline.evidence.candidate import Candidate
from pipeline.records import (
    Benchmark,
    Evaluation,
    Extension,
    Manifest,
    Seal,
    Sealed,
    Timings,
    Verdict,
)

CLOCK = ("wall_s", "peak_memory_bytes")  # differ each time the same is made
MANIFEST = "manifest.json"
SEALED: dict[str, type[Sealed]] = {
    MANIFEST: Manifest,
    "reference.json": Evaluation,
    "evaluation.json": Evaluation,
    "extension.json": Extension,
    "verdict.json": Verdict,
    "timings.json": Timings,
    "benchmark.json": Benchmark,
}
FLOOR = {  # of the unquantized model on the same engine
    "floor.json": "evaluation.json",
    "floor-benchmark.json": "benchmark.json",
    "floor-manifest.json": MANIFEST,
    "floor-timings.json": "timings.json",
}
SHARED = ("checkpoint.json", "samples.json", "texts.json", "trace.json", "reference.json")

S = TypeVar("S", bound=Sealed)


def evidence(candidate: Candidate) -> dict[str, Path]:
    """All that a verdict follows from, by the name that it has in a bundle."""
    name, variant_name, baseline = candidate.name, candidate.variant_name, candidate.baseline
    files = {
        MANIFEST: paths.manifest(name, variant_name),
        "checkpoint.json": paths.checkpoint(name),
        "samples.json": paths.samples(name),
        "texts.json": paths.texts(name),
        "recipe.yaml": paths.settings(name),
        "reference.json": paths.evaluation(name, "reference"),
        "evaluation.json": paths.evaluation(name, variant_name),
        "extension.json": paths.extension(name, variant_name),
        "verdict.json": paths.verdict(name, variant_name),
        "benchmark.json": paths.benchmark(name, variant_name),
    }
    if baseline is not None:
        files["floor.json"] = paths.evaluation(name, baseline)
        files["floor-benchmark.json"] = paths.benchmark(name, baseline)
    return files


def kept(candidate: Candidate) -> dict[str, Path]:
    """That, and what a bundle does not have: raw timings and the trace, and the manifest of the
    unquantized model."""
    files, name, variant_name, baseline = (
        evidence(candidate),
        candidate.name,
        candidate.variant_name,
        candidate.baseline,
    )
    files |= {"timings.json": paths.timings(name, variant_name), "trace.json": paths.trace(name)}
    if baseline is not None:
        files |= {
            "floor-manifest.json": paths.manifest(name, baseline),
            "floor-timings.json": paths.timings(name, baseline),
        }
    return files


def content(path: Path) -> str:
    """SHA-256 of what a record says; of any other file's bytes. Raises ArtifactError if it cannot
    be read."""
    if path.suffix != ".json":
        return hashlib.sha256(records.read_text(path).encode()).hexdigest()
    return _hash(_parsed(records.read_text(path), str(path)))


def sealed(record: S, made_from: Mapping[str, Path]) -> S:
    """The record with its seal; `made_from` are files by the names that `evidence` gives them.
    Raises ArtifactError."""
    seal = Seal(
        made_from={name: content(path) for name, path in sorted(made_from.items())}, sha256=""
    )
    unsigned = record.model_copy(update={"seal": seal})
    sha256 = _own(_parsed(unsigned.dumps(), type(record).__name__))
    return record.model_copy(update={"seal": seal.model_copy(update={"sha256": sha256})})


def broken(files: Mapping[str, Path]) -> list[str]:
    """What of these records, by the names that `evidence` gives them, is not as its stage wrote it,
    in a sentence each.

    What a record was made from and is not among them, as raw timings in a bundle, is not asked.
    Raises ArtifactError."""
    floor = {own: files[name] for name, own in FLOOR.items() if name in files}
    floor |= {name: files[name] for name in SHARED if name in files}
    return list(dict.fromkeys(_broken(files) + _broken(floor)))


def _broken(files: Mapping[str, Path]) -> list[str]:
    wrong = []
    for name, kind in SEALED.items():
        if name not in files or (name == "timings.json" and not files[name].is_file()):
            continue  # what was not timed has none; the benchmark that was made from some says so
        path = files[name]
        seal = records.read(path, kind).seal
        if seal is None:  # by an earlier version, whose work DVC holds to be current
            again = paths.producer(path).replace("dvc repro", "dvc repro -f")
            wrong.append(
                f"{path}: not sealed: written by an earlier version, or by hand. Make it again:"
                f" {again}"
            )
        elif _own(_parsed(records.read_text(path), str(path))) != seal.sha256:
            wrong.append(f"{path}: changed since its stage wrote it: its seal does not hold")
        else:
            wrong += [f"{path}: made from another {source}" for source in _others(seal, files)]
    return wrong


def _others(seal: Seal, files: Mapping[str, Path]) -> list[str]:
    """What of the files that are there is not what it was made from."""
    asked = {name: sha256 for name, sha256 in seal.made_from.items() if name in files}
    return [
        name
        for name, sha256 in asked.items()
        if not files[name].is_file() or content(files[name]) != sha256
    ]


def _parsed(text: str, where: str) -> dict[str, Any]:
    record = reading.json_value(text, where, ArtifactError)
    if not isinstance(record, dict):
        raise ArtifactError(
            f"{where}: not a record: expected a JSON object. Run: {paths.producer(Path(where))}"
        )
    return record


def _own(record: dict[str, Any]) -> str:
    """What a seal is over: the record, and what it was made from."""
    return _hash(record | {"seal": {"made_from": record["seal"]["made_from"]}})


def _hash(record: dict[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps({k: v for k, v in record.items() if k not in CLOCK}, sort_keys=True).encode()
    ).hexdigest()
