"""What a sign-off is about: an artifact's manifest, and every record that its verdict follows from,
by SHA-256 of what they say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import ArtifactError
from pipeline.evidence import seals
from pipeline.records import Subject


def of(recipe: str, variant: str, evidence: Mapping[str, Path]) -> Subject:
    """Raises ArtifactError if a record is missing."""
    for path in evidence.values():
        if not path.is_file():
            raise ArtifactError(f"{path}: missing. Run: dvc repro report@{recipe}")
    hashes = {name: seals.content(path) for name, path in sorted(evidence.items())}
    return Subject(
        recipe=recipe, variant=variant, manifest_sha256=hashes[seals.MANIFEST], evidence=hashes
    )
