"""What nobody foresaw: one sentence for the user, and the traceback in a log file that the sentence
names."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import traceback
from pathlib import Path

from pipeline import paths
from pipeline.errors import DiskFull, NoMemory, QuantgateError, WorkerCrashed

LONGEST = 300  # characters of an error's own text
FULL = (errno.ENOSPC, errno.EDQUOT)
REMEDIES = {
    errno.EROFS: "Make it writable, or work in a copy of the project",
    errno.EACCES: "Give yourself the right to it, or work in a copy of the project",
    errno.EPERM: "Give yourself the right to it, or work in a copy of the project",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
    errno.EMFILE: "Raise the limit on open files (ulimit -n)",
    errno.ENOMEM: "Stop other programs, or raise the limit on memory (ulimit -v)",
}


def place(error: BaseException) -> str:
    """Its class and where it was raised, without what it says, which may repeat a secret."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} (at {_short(at.filename)}:{at.lineno})"


def sentence(what: str, error: BaseException) -> str:
    """Of the exception being handled: what it says, where it was raised, where its traceback was
    written."""
    message = " ".join(str(error).split())[:LONGEST]
    at = traceback.extract_tb(error.__traceback__)[-1]
    summary = (
        f"{what}: {type(error).__name__}{f': {message}' if message else ''} (at"
        f" {_short(at.filename)}:{at.lineno})"
    )
    return f"{summary}. {_log(what, error)}"


def of_system(error: OSError) -> str:
    """A file or program that is not there, is not allowed or has no room, in a sentence."""
    name, reason = str(error.filename or ""), error.strerror or " ".join(str(error).split())
    if error.errno in FULL:
        return f"{error.filename or 'artifacts/'}: the disk is full. Free some space and run again."
    is_program = name and "/" not in name and not Path(name).suffix
    if isinstance(error, FileNotFoundError) and is_program:
        return (
            f"{name}: no such program or file. Install it, or put it on PATH. {_log(name, error)}"
        )
    remedy = f"{REMEDIES[error.errno]}. " if error.errno in REMEDIES else ""
    return f"{name or 'a file'}: {reason}. {remedy}{_log('quantgate', error)}"


def last(what: str, error: BaseException) -> QuantgateError:
    """What ended a command, in a sentence: no memory, a full disk, what the system refused, or what
    nobody foresaw. Where even that takes too much memory, in few words."""
    try:
        if is_memory(error):
            said = f"{what}: out of memory. {REMEDIES[errno.ENOMEM]}. {_log(what, error)}"
            return NoMemory(said)
        if isinstance(error, OSError):
            full = error.errno in FULL
            return DiskFull(of_system(error)) if full else WorkerCrashed(of_system(error))
        if is_full_disk(error):
            return DiskFull(f"the disk is full ({error}). Free some space and run again.")
        return WorkerCrashed(sentence(what, error))
    except Exception:  # of the attempt to say it, which is no help to anybody
        kind = NoMemory if isinstance(error, MemoryError) else WorkerCrashed
        return kind(f"{what}: {type(error).__name__}, and no room to say more")


def is_memory(error: BaseException | None) -> bool:
    """Whether too little memory is behind it: a library that cannot be mapped has an error of its
    own, which a file system without execution has too, with its reason."""
    while error is not None:
        unmapped = "failed to map segment" in str(error)
        forbidden = os.strerror(errno.EPERM) in str(error)
        if isinstance(error, MemoryError) or os.strerror(errno.ENOMEM) in str(error):
            return True
        if unmapped and not forbidden:
            return True
        error = error.__cause__ or error.__context__
    return False


def is_full_disk(error: BaseException) -> bool:
    """Every library wraps a full disk in an error of its own."""
    return os.strerror(errno.ENOSPC) in str(error)


def _log(what: str, error: BaseException) -> str:
    folders = [paths.TEMPORARY / "errors"] if Path("dvc.yaml").is_file() else []
    with contextlib.suppress(FileNotFoundError):  # no folder for temporary files can be written to
        folders.append(Path(tempfile.gettempdir()) / f"quantgate-{os.getuid()}")
    for folder in folders:
        path = folder / f"{what.replace('/', '-').replace(' ', '.')[:100]}.log"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(traceback.format_exception(error)))
        except OSError:  # a read-only project, a full disk: the next place
            continue
        return f"The traceback is in {path}"
    return "Its traceback could be written nowhere."


def _short(filename: str) -> str:
    """A file by its place in its package or project."""
    return filename.rpartition("site-packages/")[2].removeprefix(f"{Path.cwd()}/")
