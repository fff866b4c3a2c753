"""CycloneDX 1.6 ML-BOM of an artifact: the model with its card, the source that it was made from,
and the packages that made and measured it. The library's own classes know no model card, so the
document is written out; the library's validator must accept it.

Source: cyclonedx.org/docs/1.6/json.
"""

from __future__ import annotations

import json
import math
import uuid
from typing import Any

from pipeline.errors import ArtifactError
from pipeline.release.bundle.layout import Records

MODEL = "machine-learning-model"


def make(records: Records) -> str:
    """JSON; the same records give the same bytes. Raises ArtifactError if CycloneDX's validator
    refuses it."""
    # A grammar is built when it is imported (1.8 s): only for who makes a bill.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    manifest, sha256 = records.manifest, records.verdict.candidate_sha256
    tools = {**records.evaluation.versions, **records.manifest.versions}
    packages = [_package(name, version) for name, version in sorted(tools.items())]
    source = _source(records)
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, sha256)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": MODEL,
                "bom-ref": "artifact",
                "name": f"{manifest.recipe}-{manifest.variant}",
                "version": sha256[:12],
                **_licence(records),
                "pedigree": {
                    "ancestors": [{key: value for key, value in source.items() if key != "bom-ref"}]
                },
                "modelCard": _card(records),
                "components": [_file(file.path, file.sha256) for file in manifest.files],
            }
        },
        "components": [source, *packages],
        "dependencies": [
            {
                "ref": "artifact",
                "dependsOn": ["source", *(package["bom-ref"] for package in packages)],
            }
        ],
    }
    text = json.dumps(document, indent=1) + "\n"
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong is not None:
        raise ArtifactError(
            f"{manifest.recipe}/{manifest.variant}: CycloneDX refuses the bill of materials:"
            f" {str(wrong).splitlines()[0]}"
        )
    return text


def _source(records: Records) -> dict[str, Any]:
    pinned = records.checkpoint
    purl = {"purl": f"pkg:huggingface/{pinned.repo}@{pinned.revision}"} if pinned.repo else {}
    files = [_file(f"source/{file.path}", file.sha256) for file in pinned.files]
    name = pinned.repo or pinned.path or pinned.architecture
    return {
        "type": MODEL,
        "bom-ref": "source",
        "name": name,
        **purl,
        **_licence(records),
        "components": files,
    }


def _licence(records: Records) -> dict[str, Any]:
    """By its name: the hub's words for licences are not SPDX's."""
    licence = records.checkpoint.license
    return {"licenses": [{"license": {"name": licence}}]} if licence else {}


def _file(name: str, sha256: str) -> dict[str, Any]:
    return {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": sha256}]}


def _package(name: str, version: str) -> dict[str, Any]:
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _card(records: Records) -> dict[str, Any]:
    checks = [check for check in records.verdict.checks if math.isfinite(check.value)]
    metrics = [
        {
            "type": check.name,
            "value": repr(check.value),
            "confidenceInterval": {"lowerBound": repr(check.low), "upperBound": repr(check.high)},
        }
        for check in checks
    ]
    metrics += [
        {"type": f"accuracy {task.name}", "value": repr(task.accuracy)}
        for task in records.verdict.tasks
    ]
    return {
        "modelParameters": {
            "task": "text-generation",
            "architectureFamily": records.checkpoint.architecture,
            "datasets": [{"type": "dataset", "name": f"calibration: {records.samples.prompts}"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
    }
