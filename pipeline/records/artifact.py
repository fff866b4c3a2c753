"""Artifacts as folders of files: hash them, verify them, move them into place in one step."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from pipeline import paths
from pipeline.errors import ArtifactError, StageError
from pipeline.records import File

LOCK_WAIT_S = 5.0


def hash_files(folder: Path) -> list[File]:
    """Size and SHA-256 of every file below the folder, sorted. Raises ArtifactError for what leaves
    it or cannot be read."""
    files = []
    for path in walk(folder):
        if path.is_dir() and not path.is_symlink():
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ArtifactError(
                f"{path}: a link that leaves its folder. Replace it by the file itself."
            )
        files.append(hash_file(path, path.relative_to(folder).as_posix()))
    return files


def walk(folder: Path) -> list[Path]:
    """All that lies below the folder, sorted; links are not followed. Raises ArtifactError for a
    folder that cannot be listed."""

    def refuse(error: OSError) -> None:
        raise ArtifactError(
            f"{error.filename}: cannot be listed ({error.strerror}), so what it holds is not known."
            " Make it readable for you."
        ) from error

    tree = os.walk(folder, onerror=refuse)
    return sorted(
        Path(parent, name) for parent, folders, files in tree for name in (*folders, *files)
    )


def hash_file(path: Path, name: str) -> File:
    """Raises ArtifactError for a file that may not be read."""
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except PermissionError as error:
        raise ArtifactError(
            f"{path}: cannot be read ({error.strerror}). Make it readable for you."
        ) from error
    return File(path=name, size_bytes=path.stat().st_size, sha256=digest)


def digest(files: list[File]) -> str:
    """One SHA-256 for a whole set of files: over their hashes and names in order, as `sha256sum`
    would print them."""
    listing = "".join(
        f"{file.sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path)
    )
    return hashlib.sha256(listing.encode()).hexdigest()


def verify(folder: Path, files: list[File]) -> None:
    """Raises ArtifactError naming every missing, added or changed file."""
    wrong = differences(folder, files, "the manifest")
    if wrong:
        listing = "\n  ".join(wrong)
        raise ArtifactError(
            f"{folder}: not the artifact that its manifest describes:\n  {listing}\nMake it again:"
            " dvc repro"
        )


def differences(folder: Path, files: list[File], listed_in: str) -> list[str]:
    """Every missing, added or changed file, in a line each."""
    expected = {file.path: file for file in files}
    present = {file.path: file for file in hash_files(folder)} if folder.is_dir() else {}
    wrong = [f"{name}: missing" for name in expected.keys() - present.keys()]
    wrong += [f"{name}: not in {listed_in}" for name in present.keys() - expected.keys()]
    wrong += [
        f"{name}: {present[name].size_bytes} bytes, SHA-256 {present[name].sha256[:12]}...,"
        f" {listed_in}"
        f" says {expected[name].size_bytes} bytes, {expected[name].sha256[:12]}..."
        for name in expected.keys() & present.keys()
        if present[name] != expected[name]
    ]
    return sorted(wrong)


def install(temporary: Path, target: Path) -> None:
    """Moves a finished folder into place; what stood there is moved away whole first, never half
    deleted."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.replace(temporary.with_name(f"{temporary.name}.old"))
    temporary.replace(target)


@contextlib.contextmanager
def stage_folder(stage: str, wait_s: float = LOCK_WAIT_S) -> Iterator[Path]:
    """An empty temporary folder that only this run of the stage holds; leftovers of a killed run
    are cleared.

    Raises StageError while another run of the same stage is alive, and for `wait_s`.
    """
    base = paths.TEMPORARY / stage.replace(
        "@", "."
    )  # optimum-intel reads "@" in a path as a hub revision
    base.parent.mkdir(parents=True, exist_ok=True)
    with base.with_name(f"{base.name}.lock").open("w") as lock:
        # Workers inherit the lock: it is held as long as anyone could still write into the folder.
        os.set_inheritable(lock.fileno(), True)
        _lock(lock, stage, wait_s)
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir()
        try:
            yield base
        finally:
            shutil.rmtree(base, ignore_errors=True)


def is_held(folder: Path) -> bool:
    """Whether a run of its stage still holds a folder that `stage_folder` made; so it may be where
    another user's did."""
    try:
        with folder.with_name(f"{folder.name}.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except FileNotFoundError:
        return False
    return False


def _lock(handle: TextIO, stage: str, wait_s: float) -> None:
    """Waits a moment for a killed run's worker to be gone, no longer."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise StageError(
                    f"{stage}: another run of this stage is alive. Wait for it, or stop it."
                ) from error
            time.sleep(0.1)
        else:
            return
