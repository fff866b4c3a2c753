"""Is a bundle what was signed, does its chain hold, and is it signed off? By a policy of the
reader's own.

Raises Tampered naming what is wrong, Rejected for a bundle that is whole and not, or no longer,
approved."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline import gate, paths
from pipeline.errors import ArtifactError, QuantgateError, Rejected, Tampered
from pipeline.evidence import seals
from pipeline.gate import limits
from pipeline.records import File, artifact, joined
from pipeline.release import signing
from pipeline.release.bundle import bom, layout, serve_settings, statements
from pipeline.release.bundle.assemble import PREDICATE
from pipeline.release.bundle.layout import Records
from pipeline.release.registries import Entry
from pipeline.release.signoff import case, log, subject
from pipeline.release.signoff.policy import Policy
from pipeline.release.signoff.standing import Case, Standing, standing

LARGEST_SIGNATURE = 64 * 2**20  # bytes


@dataclass(frozen=True)
class Signed:
    """What a publisher signed: the entry, and every other file of the bundle."""

    entry: Entry
    by: str
    files: list[File]


@dataclass(frozen=True)
class Checked:
    signed: Signed
    records: Records
    standing: Standing


def signature(text: str, rules: Policy, now: datetime.datetime, what: str) -> Signed:
    """Believes a bundle's signature. Raises Tampered, also for names of files that would leave the
    folder."""
    envelope = signing.opened(text, f"{what}: {paths.SIGNATURE}")
    by = signing.signed_by(
        envelope, rules.keys(rules.publishers, now), f"{what}: {paths.SIGNATURE}"
    )
    try:
        predicate = envelope.statement["predicate"]
        sizes = {str(name): int(size) for name, size in predicate["size_bytes"].items()}
        entry = Entry(predicate["recipe"], predicate["variant"], predicate["version"])
        named = [
            (str(one["name"]), str(one["digest"]["sha256"]))
            for one in envelope.statement["subject"]
        ]
        files = [File(path=name, size_bytes=sizes[name], sha256=sha256) for name, sha256 in named]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Tampered(
            f"{what}: {paths.SIGNATURE}: not the statement of a bundle ({error!r})."
        ) from error
    if envelope.statement.get("predicateType") != PREDICATE or predicate.get("by") != by:
        raise Tampered(f"{what}: {paths.SIGNATURE}: not the statement of a bundle by {by}.")
    for name, _ in named:
        if not _is_safe(name):
            raise Tampered(
                f"{what}: {paths.SIGNATURE}: lists {name!r}, which is no file inside the bundle."
            )
    return Signed(entry, by, files)


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name)
    plain = (
        name == path.as_posix()
        and "\\" not in name
        and "\0" not in name
        and name != paths.SIGNATURE
    )
    return (
        plain and not path.is_absolute() and not {"..", "."} & set(path.parts) and bool(path.parts)
    )


def speaking(signed: Signed) -> list[File]:
    """The files that speak for the model: all but its own."""
    return [file for file in signed.files if PurePosixPath(file.path).parts[0] == str(layout.OURS)]


def check(
    bundle: Path,
    rules: Policy,
    now: datetime.datetime,
    recheck: bool = False,
    model: bool = True,
) -> Checked:
    """Checks everything; a rejection in the log of the project that the reader stands in counts
    too.

    With `recheck` the verdict is decided again from the raw evaluations by the gate of this
    project. Without `model` only what speaks for the model is there, and is checked."""
    signed = _whole(bundle, rules, now, model)
    evidence = layout.evidence(bundle)
    try:
        records = layout.read_records(evidence)
        again = statements.make(evidence)
        wrong = _ours(bundle, signed, records)
    except QuantgateError as error:
        raise Tampered(f"{bundle}: its records cannot be read: {error}") from error
    wrong += [what for what, holds in _chain(signed, records).items() if not holds]
    wrong += _statements(bundle, again, rules, now)
    wrong += seals.broken(evidence)
    if (
        recheck
        and _decided_again(records) != records.verdict.model_copy(update={"seal": None}).dumps()
    ):
        wrong.append("the verdict is not what the evaluations give")
    if wrong:
        raise Tampered(f"{bundle}: its chain does not hold:\n  " + "\n  ".join(wrong))
    return Checked(signed, records, standing_of(bundle, records, rules, now))


def again(bundle: Path, checked: Checked, rules: Policy, now: datetime.datetime) -> Standing:
    """Whether a bundle that was checked is still approved: by the publisher's key, the log and the
    policy as they are now. Its files are not hashed again."""
    signature(_text(bundle / paths.SIGNATURE), rules, now, str(bundle))
    return standing_of(bundle, checked.records, rules, now)


def _whole(bundle: Path, rules: Policy, now: datetime.datetime, model: bool) -> Signed:
    """Every file is there as it was signed, and no other."""
    where = bundle / paths.SIGNATURE
    try:
        present = {path.relative_to(bundle).as_posix(): path for path in artifact.walk(bundle)}
    except ArtifactError as error:
        raise Tampered(str(error)) from error
    links = [name for name, path in present.items() if path.is_symlink()]
    if links:
        raise Tampered(f"{bundle}: links are no part of a bundle: {', '.join(links)}")
    odd = [name for name, path in present.items() if not (path.is_file() or path.is_dir())]
    if odd:
        raise Tampered(f"{bundle}: neither files nor folders: {', '.join(odd)}")
    if not where.is_file() or where.stat().st_size > LARGEST_SIGNATURE:
        raise Tampered(f"{bundle}: not a signed bundle: {paths.SIGNATURE} is missing or too large.")
    signed = signature(_text(where), rules, now, str(bundle))
    expected = signed.files if model else speaking(signed)
    listed = [*expected, artifact.hash_file(where, paths.SIGNATURE)]
    folders = {parent.as_posix() for file in listed for parent in PurePosixPath(file.path).parents}
    wrong = [
        f"{name}: a folder of nothing that is signed"
        for name, path in present.items()
        if path.is_dir() and name not in folders
    ]
    wrong += artifact.differences(bundle, listed, "the signature")
    if wrong:
        raise Tampered(
            f"{bundle}: not the bundle that {signed.by} signed:\n  " + "\n  ".join(wrong)
        )
    return signed


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise Tampered(f"{path}: not UTF-8 text.") from error


def _chain(signed: Signed, records: Records) -> dict[str, bool]:
    """What must be so for the records to be of these files and of each other, by what is wrong
    otherwise."""
    manifest, evaluation = records.manifest, records.evaluation
    model = [
        file
        for file in signed.files
        if file.path != layout.CARD and PurePosixPath(file.path).parts[0] != str(layout.OURS)
    ]
    made, source = artifact.digest(manifest.files), artifact.digest(records.checkpoint.files)
    entry, floor = signed.entry, records.floor
    named = [
        (record.recipe, record.variant)
        for record in (manifest, evaluation, records.verdict, records.benchmark)
    ]
    return {
        "the records are of another recipe or variant": (
            set(named) == {(entry.recipe, entry.variant)}
        ),
        "the manifest is of other model files": (
            sorted(map(str, model)) == sorted(map(str, manifest.files))
        ),
        "the artifact was made from another checkpoint": manifest.checkpoint_sha256 == source,
        "the artifact was calibrated on other samples": (
            manifest.samples_sha256 == records.samples.sha256
        ),
        "the evaluation is of another artifact": evaluation.artifact_sha256 == made,
        "the evaluation is against another reference": (
            not evaluation.logprobs_sha256
            or evaluation.logprobs_sha256 == records.reference.logprobs_sha256
        ),
        "the added items are of another artifact": records.extension.artifact_sha256 == made,
        "the reference is of another checkpoint": records.reference.artifact_sha256 == source,
        "the noise floor is of another engine": floor is None or floor.engine == manifest.engine,
        "the verdict is of another artifact": records.verdict.candidate_sha256 == made,
        "the verdict is against another checkpoint": records.verdict.reference_sha256 == source,
        "the benchmark is of another artifact": (
            not records.benchmark.measured or records.benchmark.artifact_sha256 == made
        ),
    }


def _ours(bundle: Path, signed: Signed, records: Records) -> list[str]:
    """What is below quantgate/ follows from the records: made again here, and compared. Reports and
    policy are for people alone."""
    origins = {
        origin.environment: origin.environment_sha256
        for origin in (records.evaluation.origin, records.manifest.origin)
    }
    files = {file.path: file.sha256 for file in signed.files}
    known = {
        layout.STATEMENTS,
        layout.SIGNOFF,
        layout.POLICY,
        layout.SERVE,
        layout.BOM,
        *layout.REPORTS,
        *map(layout.pins, origins),
    }
    ours = [path for path in map(PurePosixPath, files) if path.parts[0] == str(layout.OURS)]
    wrong = [
        f"{path}: no part of a bundle"
        for path in ours
        if Path(path) not in known and path.parent != PurePosixPath(layout.RECORDS)
    ]
    for environment, sha256 in origins.items():
        if files.get(layout.pins(environment).as_posix()) != sha256:
            wrong.append(f"{layout.pins(environment)}: not the packages that the records name")
    for path, make in ((layout.SERVE, serve_settings.render), (layout.BOM, bom.make)):
        if path.as_posix() not in files or _text(bundle / path) != make(records):
            wrong.append(f"{path}: not what the records give")
    return wrong


def _statements(
    bundle: Path, again: list[dict[str, object]], rules: Policy, now: datetime.datetime
) -> list[str]:
    """The statements must be signed, and be what the records give."""
    lines = (
        _text(bundle / layout.STATEMENTS).splitlines()
        if (bundle / layout.STATEMENTS).is_file()
        else []
    )
    signed_statements = []
    for number, line in enumerate(lines, 1):
        what = f"{bundle}: {layout.STATEMENTS}: line {number}"
        opened = signing.opened(line, what)
        signing.signed_by(opened, rules.keys(rules.publishers, now), what)
        signed_statements.append(opened.statement)
    same = signed_statements == json.loads(json.dumps(again))
    return [] if same else [f"{layout.STATEMENTS}: not what the records give"]


def _decided_again(records: Records) -> str:
    candidate = records.evaluation.model_copy(
        update={"tasks": joined(records.evaluation.tasks, records.extension.tasks)}
    )
    return gate.decide(
        records.reference, candidate, records.floor, limits.of(records.recipe, records.variant)
    ).dumps()


def standing_of(bundle: Path, records: Records, rules: Policy, now: datetime.datetime) -> Standing:
    """Raises Rejected, or Tampered for a log that does not hold."""
    manifest, where = records.manifest, bundle / layout.SIGNOFF
    entries = log.parse(_text(where) if where.is_file() else "", f"{bundle}: {layout.SIGNOFF}")
    about = subject.of(manifest.recipe, manifest.variant, layout.evidence(bundle))
    subject_case = Case(
        about, records.verdict.status, case.failing(records.verdict, records.performance)
    )
    outcome = standing(
        entries, rules, subject_case, now, heard=log.read(manifest.recipe, manifest.variant)
    )
    if not outcome.approved:
        raise Rejected(
            f"{bundle}: {manifest.recipe}/{manifest.variant}: {outcome.words}:"
            f" {'; '.join(outcome.reasons)}"
        )
    return outcome
