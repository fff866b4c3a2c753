"""Puts a bundle together from what the stages left, and signs it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from securesystemslib.signer import Signer

from pipeline import paths
from pipeline.errors import ArtifactError
from pipeline.evidence import seals
from pipeline.evidence.candidate import Candidate
from pipeline.recipe import Recipe
from pipeline.records import File, artifact, write_text
from pipeline.release import signing
from pipeline.release.bundle import bom, layout, serve_settings, statements
from pipeline.release.registries import Entry
from pipeline.release.signoff import log, policy
from pipeline.report import card, markdown, page
from pipeline.report.summary import summarize
from pipeline.runtime import environments

PREDICATE = "urn:quantgate:bundle:v1"


def assemble(entry: Entry, recipe: Recipe, signer: Signer, by: str, out: Path) -> list[File]:
    """Fills the empty folder; returns all its files, the signature last. Raises ArtifactError if
    something is missing."""
    candidate = Candidate.here(recipe, entry.variant)
    model, sources = candidate.place.model, seals.evidence(candidate)
    shutil.copytree(model, out, copy_function=_link, dirs_exist_ok=True)
    for reserved in (layout.CARD, str(layout.OURS)):
        if (out / reserved).exists():
            raise ArtifactError(
                f"{model / reserved}: a bundle puts a file of its own there. Remove it from the"
                " artifact."
            )
    for name, path in sources.items():
        _copy(path, out / layout.RECORDS / name)
    evidence = layout.evidence(out)
    records = layout.read_records(evidence)
    summary = summarize(recipe)  # rendered anew: a report that lies here may be old, or edited
    write_text(out / layout.CARD, card.render(summary, entry.variant))
    for path, text in zip(
        layout.REPORTS, (markdown.render(summary), page.render(summary)), strict=True
    ):
        write_text(out / path, text)
    for environment in sorted(
        {records.manifest.origin.environment, records.evaluation.origin.environment}
    ):
        _copy(environments.pins_file(environment), out / layout.pins(environment))
    _copy(log.path(entry.recipe, entry.variant), out / layout.SIGNOFF)
    _copy(policy.PATH, out / layout.POLICY)
    write_text(out / layout.BOM, bom.make(records))
    write_text(out / layout.SERVE, serve_settings.render(records))
    write_text(
        out / layout.STATEMENTS,
        "".join(signing.sign(statement, signer) for statement in statements.make(evidence)),
    )
    files = artifact.hash_files(out)
    sign(entry, files, signer, by, out)
    return [*files, artifact.hash_file(out / paths.SIGNATURE, paths.SIGNATURE)]


def sign(entry: Entry, files: list[File], signer: Signer, by: str, out: Path) -> None:
    """Signs the list of the files as the bundle of an entry."""
    predicate = {
        "recipe": entry.recipe,
        "variant": entry.variant,
        "version": entry.version,
        "by": by,
        "size_bytes": {file.path: file.size_bytes for file in files},
    }
    statement = signing.statement({file.path: file.sha256 for file in files}, PREDICATE, predicate)
    write_text(out / paths.SIGNATURE, signing.sign(statement, signer))


def _copy(source: Path, target: Path) -> None:
    """Raises ArtifactError if it is missing."""
    if not source.is_file():
        raise ArtifactError(f"{source}: missing. Run: {paths.producer(source)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _link(source: str, target: str) -> None:
    """A second name for the same file where the disk can, so that a bundle costs no space. The
    stages only ever replace files."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
