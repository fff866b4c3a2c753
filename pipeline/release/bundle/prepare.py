"""Verifies everything once more and puts the bundle together: a worker's job, whose memory is free
before gigabytes are sent."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.errors import SignoffError
from pipeline.evidence import opened, revision, seals
from pipeline.planning import index
from pipeline.release import signing
from pipeline.release.bundle import assemble, check
from pipeline.release.registries import Entry
from pipeline.release.signoff import commands, log, policy


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Worker verb: fills job["out"]; returns the entry and the files, the signature last.

    Raises ArtifactError for anything stale, Rejected unless signed off, SignoffError for a key that
    may not publish."""
    name, variant_name, out = job["recipe"], job["variant"], Path(job["out"])
    index.check(name)  # of a recipe that leaves out sections, the bundle has what was written of it
    rules, now = policy.load(), datetime.datetime.now(datetime.UTC)
    by, signer = signing.signer(job["key"], rules.holders("publishers", now))
    commands.verify(name, variant_name)
    if not revision.is_committed(log.path(name, variant_name)):
        raise SignoffError(
            f"{log.path(name, variant_name)}: not in the git commit as it is. Commit the sign-off,"
            " then publish."
        )
    made = seals.content(paths.manifest(name, variant_name))
    entry = Entry(name, variant_name, made[:12] if job["version"] is None else job["version"])
    files = assemble.assemble(entry, opened.recipe(name), signer, by, out)
    check.check(out, rules, now, recheck=True)
    return {"version": entry.version, "files": [file.model_dump() for file in files]}
