"""The log of a variant's sign-off: signoff/RECIPE/VARIANT.jsonl, one signed statement a line, each
naming the one before.

It is only ever appended to. A line that was changed breaks its signature, one that was removed or
inserted breaks the chain, and a tail that was cut off shows in git's history, which holds the
longer log."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import ValidationError
from securesystemslib.signer import Key, Signer

from pipeline import records
from pipeline.errors import Tampered
from pipeline.evidence import revision
from pipeline.records import artifact
from pipeline.records.signed import Decision
from pipeline.release import signing
from pipeline.release.signing import Opened

PREDICATE = "urn:quantgate:signoff:v1"
Entry = tuple[Decision, Opened]


def path(recipe: str, variant: str) -> Path:
    return Path("signoff") / recipe / f"{variant}.jsonl"


def parse(text: str, what: str) -> list[Entry]:
    """Every entry, in order, its chain checked and its signature not yet. Raises Tampered."""
    entries: list[Entry] = []
    previous = ""
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        where = f"{what}: entry {number}"
        envelope = signing.opened(line, where)
        try:
            decision = Decision.model_validate(envelope.statement["predicate"])
        except ValidationError as error:
            raise Tampered(
                f"{where}: not a sign-off: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}"
            ) from error
        if envelope.statement != _statement(decision):
            raise Tampered(f"{where}: its subject is not what it decides about.")
        if decision.previous != previous:
            raise Tampered(
                f"{where}: it does not follow the entry before it: one was removed, added or"
                " changed."
            )
        previous = hashlib.sha256(line.encode()).hexdigest()
        entries.append((decision, envelope))
    return entries


def content(where: Path) -> str:
    """A log as it stands; empty where there is none. Raises Tampered for what is no text."""
    try:
        return where.read_text() if where.is_file() else ""
    except UnicodeDecodeError as error:
        raise Tampered(f"{where}: not UTF-8 text. Bring it back: git log -p -- {where}") from error


def read(recipe: str, variant: str) -> list[Entry]:
    """The log of the project. Raises Tampered unless it begins with every version of it that was
    ever committed."""
    where = path(recipe, variant)
    text = content(where)
    lost = next(
        (version for version in revision.versions(where) if not text.startswith(version)), None
    )
    if lost is not None:
        raise Tampered(
            f"{where}: {len(lost.splitlines())} entries were committed, and are not what it begins"
            f" with now: some were removed or changed. Bring them back: git log -p -- {where}"
        )
    return parse(text, str(where))


def append(decision: Decision, signer: Signer | None, known: dict[str, Key]) -> None:
    """Adds one entry, once it holds: what was signed must be by a key that is `known` (name ->
    public key).

    Raises Tampered if another was added since the decision was made, or if the signature does not
    hold."""
    where = path(decision.subject.recipe, decision.subject.variant)
    with artifact.stage_folder(f"signoff@{decision.subject.recipe}--{decision.subject.variant}"):
        text = content(where)
        if decision.previous != last(text):
            raise Tampered(
                f"{where}: somebody else added an entry meanwhile. Look at it, and decide again."
            )
        added = text + signing.sign(_statement(decision), signer)
        _, entry = parse(added, str(where))[-1]
        if signer is not None:
            signing.signed_by(entry, known, f"{where}: nothing was added")
        records.write_text(where, added)


def last(text: str) -> str:
    """SHA-256 of the last entry; empty without one."""
    lines = text.splitlines(keepends=True)
    return hashlib.sha256(lines[-1].encode()).hexdigest() if lines else ""


def _statement(decision: Decision) -> dict[str, object]:
    subject = decision.subject
    name = f"{subject.recipe}/{subject.variant}"
    absent = (
        {"remeasured"} if decision.remeasured is None else None
    )  # earlier versions had no such key
    return signing.statement(
        {name: subject.manifest_sha256}, PREDICATE, decision.model_dump(mode="json", exclude=absent)
    )
