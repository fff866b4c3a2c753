"""What all registries share: which files they take, how what arrived is compared, and errors that
hold no secret."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline import paths
from pipeline.errors import DiskFull, RegistryError
from pipeline.records import File
from pipeline.release.registries import Entry, Progress
from pipeline.runtime import crash

CHUNK = 4 << 20
LONGEST = 400  # characters of another program's message
REACH_S = 10.0  # to answer at all
USER = re.compile(r"(?<=://)[^/\s@]+@")
QUERY = re.compile(r"(?<=\S)\?[^\s'\"]*=[^\s'\"]*")  # signed links carry their secret here


def needed(module: str, extra: str) -> Any:
    """A module of an optional package. Raises RegistryError naming the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RegistryError(
            f"{module.split('.', maxsplit=1)[0]}: not installed here ({error}). Run: pip install"
            f" 'quantgate[{extra}]'"
        ) from error


def clean(text: str) -> str:
    """A URL, or a message that holds URLs, without user, password and query."""
    return QUERY.sub("", USER.sub("", text))


@contextlib.contextmanager
def asking(url: str, question: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns a library's errors into RegistryError, or DiskFull: which URL, what was asked, what
    came back, what to do."""
    try:
        yield
    except (DiskFull, RegistryError):
        raise
    except errors as error:
        if (full := _full_disk(error)) is not None:
            where = f" ({full.filename})" if full.filename else ""
            raise DiskFull(
                f"{clean(url)}: {question}: the disk is full{where}. Free some space and run again;"
                " what arrived is taken up."
            ) from None
        if (refusal := _of_this_machine(error)) is not None:
            where = f" ({refusal.filename})" if refusal.filename else ""
            raise RegistryError(
                f"{clean(url)}: {question}: {refusal.strerror}{where}."
                f" {crash.REMEDIES[refusal.errno or 0]}."
            ) from None
        message = _first_line(error)
        if error.__cause__ is not None and str(error.__cause__) not in str(error):
            message += f" ({_first_line(error.__cause__)})"
        # The cause would show in a traceback what was cleaned away here.
        cause = None if USER.search(url) else error
        raise RegistryError(
            f"{clean(url)}: {question}: {message[:LONGEST]}. Check the URL, the server and the"
            " credentials."
        ) from cause


def _full_disk(error: BaseException | None) -> OSError | None:
    """The error of a file that had no room, this one or what it came from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error
        error = error.__cause__ or error.__context__
    return None


def _of_this_machine(error: BaseException | None) -> OSError | None:
    """What the system refused here, for which no server is to blame."""
    while error is not None:
        if isinstance(error, OSError) and (
            error.errno in (errno.EFBIG, errno.EROFS, errno.ENOMEM, errno.EMFILE)
            or (error.errno in crash.REMEDIES and error.filename)
        ):
            return error
        error = error.__cause__ or error.__context__
    return None


def _first_line(error: BaseException) -> str:
    line = next(
        (line.strip() for line in clean(str(error)).splitlines() if line.strip()), "no message"
    )
    return f"{type(error).__name__}: {line}".rstrip(".")


def ordered(files: Sequence[File]) -> list[File]:
    """The files as they are sent: by name, the signature last. Raises RegistryError for a name that
    leaves the folder."""
    for file in files:
        inside(file.path)
    if paths.SIGNATURE not in {file.path for file in files}:
        raise RegistryError(
            f"bundle: no {paths.SIGNATURE} among its {len(files)} files, expected a signed bundle."
            " Sign it first."
        )
    return sorted(files, key=lambda file: (file.path == paths.SIGNATURE, file.path))


def inside(name: str) -> PurePosixPath:
    """A file's name in a bundle. Raises RegistryError unless it is a plain relative path."""
    if not is_inside(name):
        raise RegistryError(
            f"file {name!r}: expected a path inside the bundle, such as quantgate/card.md. Rename"
            " the file."
        )
    return PurePosixPath(name)


def is_inside(name: str) -> bool:
    """Whether a name is a plain relative path, which leaves no folder that it is put into."""
    parts = name.split("/")
    return all(parts) and not {".", ".."} & set(parts) and "\\" not in name and name.isprintable()


def holds(file: File, chunks: Iterable[bytes], progress: Progress | None = None) -> bool:
    """Whether the chunks are the file: its size and SHA-256. Reads no further than one chunk beyond
    its size."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        if size > file.size_bytes:
            return False
        if progress is not None:
            progress(len(chunk))
    return size == file.size_bytes and digest.hexdigest() == file.sha256


def altered(url: str, file: File) -> RegistryError:
    return RegistryError(
        f"{clean(url)}: {file.path}: what was read back is not what was sent ({file.size_bytes}"
        f" bytes, SHA-256 {file.sha256[:12]}...). Nothing was published; the registry alters what"
        " it stores, or the file changed meanwhile: publish again."
    )


def published(url: str, entry: Entry) -> RegistryError:
    return RegistryError(
        f"{clean(url)}: {entry} is published already, and a registry never overwrites. Give a new"
        " version."
    )


def not_published(url: str, entry: Entry) -> RegistryError:
    return RegistryError(
        f"{clean(url)}: {entry} is not published there. See: quantgate list {clean(url)}"
    )


def no_file(url: str, entry: Entry, name: str) -> RegistryError:
    return RegistryError(
        f"{clean(url)}: {entry} has no file {name!r}. Publish the bundle as a new version."
    )


@contextlib.contextmanager
def scratch(url: str, bundle: Path) -> Iterator[Path]:
    """An empty folder beside a bundle, where there is room for its files, for what is read back
    whole; what a killed process left there goes."""
    folder = (
        bundle.parent / f".read-back-{bundle.name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read(path: Path) -> Iterator[bytes]:
    """The chunks of a local file."""
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


def write(chunks: Iterable[bytes], target: Path, name: str, progress: Progress) -> None:
    """Writes the chunks as a named file of the folder. Raises RegistryError for a name that leaves
    it."""
    path = target / inside(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        for chunk in chunks:
            stream.write(chunk)
            progress(len(chunk))
