"""The chain from the source to the figures, as in-toto Statements: a function of the records alone,
so that who checks them makes them again and compares.

Predicates: SLSA Provenance v1 (slsa.dev/spec/v1.0/provenance), in-toto Test Result v0.1
(in-toto/attestation/spec/predicates/test-result.md), and one of our own for the benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.records import artifact
from pipeline.release.bundle import layout
from pipeline.release.bundle.layout import Records
from pipeline.release.signing import statement

PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
BENCHMARK = "urn:quantgate:benchmark:v1"
RESULTS = {"PASS": "PASSED", "FAIL": "FAILED", "INCONCLUSIVE": "WARNED"}


def make(evidence: Mapping[str, Path]) -> list[dict[str, Any]]:
    """The statements about the artifact's files. Raises ArtifactError if a record is missing."""
    records = layout.read_records(evidence)
    files = {file.path: file.sha256 for file in records.manifest.files}
    recorded = [
        _resource(name, artifact.hash_file(path, name).sha256)
        for name, path in sorted(evidence.items())
    ]
    return [
        statement(files, PROVENANCE, _provenance(records, recorded)),
        statement(files, TEST_RESULT, _test_result(records, recorded)),
        statement(files, BENCHMARK, _benchmark(records, recorded)),
    ]


def _resource(name: str, sha256: str, **annotations: Any) -> dict[str, Any]:
    return {
        "name": name,
        "digest": {"sha256": sha256},
        **({"annotations": annotations} if annotations else {}),
    }


def _provenance(records: Records, recorded: list[dict[str, Any]]) -> dict[str, Any]:
    manifest, samples, origin = records.manifest, records.samples, records.manifest.origin
    where = {
        "repository": records.checkpoint.repo,
        "revision": records.checkpoint.revision,
        "path": records.checkpoint.path,
    }
    known = {key: value for key, value in where.items() if value is not None}
    calibration = {"prompts": samples.prompts, "seed": samples.seed, "count": len(samples.ids)}
    project = (
        {"name": "project", "digest": {"gitCommit": origin.revision.commit}}
        if origin.revision.commit
        else {"name": "project"}
    )
    return {
        "buildDefinition": {
            "buildType": "urn:quantgate:quantize:v1",
            "externalParameters": {
                "recipe": manifest.recipe,
                "variant": manifest.variant,
                "engine": manifest.engine,
                "quantizer": manifest.quantizer,
                "weights": manifest.weights,
                "requested": manifest.requested,
            },
            "internalParameters": {
                "resolved": manifest.resolved,
                "answered_by": manifest.answered_by,
                "versions": manifest.versions,
            },
            "resolvedDependencies": [
                *(
                    _resource(f"source/{file.path}", file.sha256, **known)
                    for file in records.checkpoint.files
                ),
                _resource("calibration samples", samples.sha256, **calibration),
                _resource("recipe", origin.recipe_sha256),
                {
                    **project,
                    "annotations": {
                        "dirty": bool(origin.revision.changed),
                        "changed": origin.revision.changed,
                    },
                },
                _resource(f"environment {origin.environment}", origin.environment_sha256),
            ],
        },
        "runDetails": {"builder": {"id": "urn:quantgate:builder:v1"}, "byproducts": recorded},
    }


def _test_result(records: Records, recorded: list[dict[str, Any]]) -> dict[str, Any]:
    by_status = {
        status: [check.name for check in records.verdict.checks if check.status == status]
        for status in RESULTS
    }
    return {
        "result": RESULTS[records.verdict.status],
        "configuration": recorded,
        "passedTests": by_status["PASS"],
        "warnedTests": by_status["INCONCLUSIVE"],
        "failedTests": by_status["FAIL"],
    }


def _benchmark(records: Records, recorded: list[dict[str, Any]]) -> dict[str, Any]:
    speed = records.performance
    record = next(resource for resource in recorded if resource["name"] == "benchmark.json")
    return {
        "measured": records.benchmark.measured,
        "machine": records.benchmark.machine,
        "speed": speed.model_dump(mode="json"),
        "record": record,
    }
