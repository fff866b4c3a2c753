"""Fetches and verifies bundles. Nothing that comes is believed, and no byte is used before it is
checked."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline import paths
from pipeline.errors import ArtifactError, RegistryError, StageError, Tampered
from pipeline.records import artifact
from pipeline.release import catalogue, registries
from pipeline.release.bundle import check
from pipeline.release.bundle.check import Checked, Signed
from pipeline.release.publish import progress_of
from pipeline.release.registries import Entry, Registry
from pipeline.release.signoff import policy
from pipeline.release.signoff.policy import Policy


def fetch(url: str, target: Path, rules_path: Path) -> None:
    """Leaves a checked bundle at the target, or nothing. Raises Tampered, Rejected,
    RegistryError."""
    if target.exists():
        raise RegistryError(
            f"{target}: there is something already. Name a folder that does not exist (--to)."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RegistryError(
            f"{target}: no folder can be made there ({error.strerror}). Name another (--to)."
        ) from error
    incoming = target.with_name(f".{target.name}.incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    try:
        checked = _fetch(url, incoming, policy.load(rules_path))
        incoming.replace(target)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    _say(str(target), checked)


def verify(what: str, rules_path: Path, recheck: bool) -> None:
    """A bundle in a folder, or one in a registry, which is fetched for it. Raises Tampered,
    Rejected, RegistryError."""
    rules = policy.load(rules_path)
    with opened(what, rules, recheck) as (_, checked):
        _say(what, checked)


@contextlib.contextmanager
def opened(
    what: str, rules: Policy, recheck: bool = False, model: bool = True
) -> Iterator[tuple[Path, Checked]]:
    """The folder of a checked bundle, for as long as it is needed. Without `model`, of what is
    published only what speaks for the model is fetched."""
    if "://" not in what:
        if not Path(what).is_dir():
            raise ArtifactError(f"{what}: no such folder, and no URL of a published bundle.")
        folder = Path(what).resolve()
        yield folder, check.check(folder, rules, _now(), recheck)
        return
    with _folder(what) as folder:
        yield folder / "bundle", _fetch(what, folder / "bundle", rules, recheck, model)


@contextlib.contextmanager
def _folder(what: str) -> Iterator[Path]:
    """Where a fetched bundle lies while it is needed: a project's own, elsewhere the system's
    (TMPDIR)."""
    if Path("dvc.yaml").is_file():
        with contextlib.ExitStack() as held:
            yield _own_folder(hashlib.sha256(what.encode()).hexdigest()[:12], held)
    else:
        with tempfile.TemporaryDirectory(prefix="quantgate-") as folder_name:
            yield Path(folder_name)


def _own_folder(name: str, held: contextlib.ExitStack) -> Path:
    """The first of NAME-1, NAME-2, ... that no other server of the same bundle has; what a killed
    one left there is cleared."""
    number = 1
    while True:
        try:
            return held.enter_context(artifact.stage_folder(f"fetch@{name}-{number}", wait_s=0))
        except StageError:
            number += 1


def _fetch(
    url: str, out: Path, rules: Policy, recheck: bool = False, model: bool = True
) -> Checked:
    registry, entry, signature = _locate(url, rules)
    signed = _signed(signature, rules, url)
    if signed.entry != entry:
        raise Tampered(f"{url}: the registry gave another bundle, {signed.entry}, under this name.")
    out.mkdir(parents=True)
    files = signed.files if model else check.speaking(signed)
    with progress_of(f"fetch {entry}", files) as progress:
        registry.fetch(entry, [file.path for file in files], out, progress)
    (out / paths.SIGNATURE).parent.mkdir(exist_ok=True)
    (out / paths.SIGNATURE).write_bytes(signature)
    return check.check(out, rules, _now(), recheck, model)


def _locate(url: str, rules: Policy) -> tuple[Registry, Entry, bytes]:
    """At URL/RECIPE/VARIANT/VERSION, or the latest version at URL/RECIPE/VARIANT. Raises
    RegistryError."""
    try:
        where, entry = registries.split(url)
        registry = registries.open_registry(where)
        return registry, entry, registry.resolve(entry)
    except RegistryError as error:
        try:
            registry, entry = catalogue.latest(url, rules)
        except RegistryError:
            raise error from None
    print(f"{url}: no version named, taking the latest: {entry.version}", file=sys.stderr)
    return registry, entry, registry.resolve(entry)


def _signed(signature: bytes, rules: Policy, url: str) -> Signed:
    try:
        text = signature.decode()
    except UnicodeDecodeError as error:
        raise Tampered(f"{url}: {paths.SIGNATURE}: not UTF-8 text.") from error
    return check.signature(text, rules, _now(), url)


def _say(what: str, checked: Checked) -> None:
    manifest = checked.records.manifest
    print(
        f"{what}: {checked.signed.entry}, {len(checked.signed.files)} files as {checked.signed.by}"
        " signed them"
    )
    print(
        f"  {manifest.weights} for {manifest.engine} by {manifest.answered_by}, commit"
        f" {manifest.origin.revision.commit}"
    )
    print(f"  {checked.standing.words}")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
