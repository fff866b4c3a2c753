"""What a registry holds: each version with its date, its verdict and whether it is approved now. Of
a few small files of a bundle; whether its records are those that were approved says `quantgate
verify`, which reads all of them."""

from __future__ import annotations

import datetime
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline import records
from pipeline.errors import QuantgateError, RegistryError
from pipeline.evidence import seals
from pipeline.records import Decision, Verdict, artifact
from pipeline.release import registries
from pipeline.release.bundle import check, layout
from pipeline.release.registries import Entry, Registry
from pipeline.release.signoff import log, policy
from pipeline.release.signoff.log import Entry as Signed
from pipeline.release.signoff.policy import Policy
from pipeline.release.signoff.standing import Case, standing

VERDICT, MANIFEST = layout.RECORDS / "verdict.json", layout.RECORDS / seals.MANIFEST
NAMES = [path.as_posix() for path in (VERDICT, MANIFEST, layout.SIGNOFF)]


@dataclass(frozen=True)
class Version:
    """`approved_at` is when its last approval was given, None without one; `words` are for
    people."""

    entry: Entry
    approved_at: datetime.datetime | None
    words: str


def show(url: str, rules_path: Path) -> None:
    """Prints what is published; by the policy, if there is one, also what is said of it."""
    registry = registries.open_registry(url)
    rules = policy.load(rules_path) if rules_path.is_file() else None
    if rules is None:
        print(
            f"note: {rules_path}: no policy there, so that whose word counts is not known (--policy"
            " FILE)"
        )
    for entry in registry.list():
        version = about(registry, entry, rules) if rules else Version(entry, None, "")
        date = f"{version.approved_at:%Y-%m-%d}" if version.approved_at else "-"
        print(f"{url.rstrip('/')}/{entry}" + (f"  {date}  {version.words}" if rules else ""))


def latest(url: str, rules: Policy) -> tuple[Registry, Entry]:
    """At URL/RECIPE/VARIANT, the version that was approved last; among those of one time, of the
    highest number.

    Raises RegistryError if there is none.
    """
    where, recipe, variant = (*url.rstrip("/").rsplit("/", maxsplit=2), "", "")[:3]
    registry = registries.open_registry(where)
    versions = [
        about(registry, entry, rules)
        for entry in registry.list()
        if (entry.recipe, entry.variant) == (recipe, variant)
    ]
    dated = [
        (version.approved_at, _number(version.entry.version), version.entry)
        for version in versions
        if version.approved_at
    ]
    if not dated:
        raise RegistryError(
            f"{url}: no version of {recipe}/{variant} there that anybody of the policy signed and"
            " approved."
        )
    return registry, max(dated)[-1]


def about(registry: Registry, entry: Entry, rules: Policy) -> Version:
    """What the bundle's sign-off says of it, by the policy and now. What does not hold is no error
    here, but said."""
    now = datetime.datetime.now(datetime.UTC)
    try:
        signed = check.signature(
            registry.resolve(entry).decode(errors="replace"), rules, now, str(entry)
        )
        if signed.entry != entry:
            return Version(entry, None, f"another bundle, {signed.entry}")
        with tempfile.TemporaryDirectory() as folder:
            files = {file.path: file for file in signed.files if file.path in NAMES}
            registry.fetch(entry, list(files), Path(folder), lambda done: None)
            for name, file in files.items():
                if artifact.hash_file(Path(folder, name), name) != file:
                    return Version(entry, None, f"{name}: not what {signed.by} signed")
            return _standing(entry, Path(folder), rules, now)
    except QuantgateError as error:
        return Version(entry, None, " ".join(str(error).split()))


def _standing(entry: Entry, folder: Path, rules: Policy, now: datetime.datetime) -> Version:
    verdict = records.read(folder / VERDICT, Verdict)
    decided = log.parse(records.read_text(folder / layout.SIGNOFF), str(entry))
    manifest = seals.content(folder / MANIFEST)
    approvals = [
        decision
        for decision in _known(decided, rules, now)
        if decision.subject.manifest_sha256 == manifest
    ]
    if not approvals:
        return Version(entry, None, f"{verdict.status}; not signed off")
    failing = {one.name: one.status for one in verdict.checks if one.status != "PASS"}
    case = Case(approvals[-1].subject, verdict.status, dict(failing))
    outcome = standing(decided, rules, case, now, heard=log.read(entry.recipe, entry.variant))
    words = (
        outcome.words
        if outcome.approved
        else f"{verdict.status}; {outcome.words}: {'; '.join(outcome.reasons)}"
    )
    return Version(entry, max(decision.at for decision in approvals), words)


def _known(decided: list[Signed], rules: Policy, now: datetime.datetime) -> list[Decision]:
    """The approvals by keys of the policy."""
    ids = {key.keyid for key in rules.keys(rules.approvers, now).values()}
    return [
        decision
        for decision, opened in decided
        if decision.action == "approve" and ids & set(opened.by)
    ]


def _number(version: str) -> list[tuple[int, str]]:
    """Orders 1.10 behind 1.9."""
    return [
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.findall(r"[0-9]+|[^0-9.]+", version)
    ]
