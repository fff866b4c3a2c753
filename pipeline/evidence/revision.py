"""What git says of the project: the commit, what differs from it, and who wrote a file.

What differs is found by hashing every file as git would (`git hash-object`) and comparing with the
commit's tree. `git status` believes the index, which can be told to look away (`update-index
--assume-unchanged`, `.git/info/exclude`)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path, PurePath

from pipeline.errors import SignoffError
from pipeline.records import Revision


def now(watched: Iterable[Path]) -> Revision:
    """Of these files and folders: the last commit that changed them, and what differs from HEAD.

    So a commit of something else, of a sign-off for one, changes nothing. `commit` is None if no
    commit has them."""
    names = [path.as_posix() for path in watched]
    commit = (_git("log", "-1", "--format=%H", "--", *names) or "").strip()
    return Revision(commit=commit or None, changed=_differing(names))


def head() -> str | None:
    """The commit that is checked out."""
    return (_git("rev-parse", "--verify", "--quiet", "HEAD") or "").strip() or None


def is_committed(path: Path) -> bool:
    """Is the file in the commit, as it is?"""
    return path.is_file() and not _differing([path.as_posix()])


def content(commit: str, path: Path) -> bytes | None:
    """A file as a checkout of the commit would have it; None if the commit is not here, or has no
    such file."""
    done = _run("cat-file", "--filters", f"{commit}:./{path.as_posix()}")
    return done.stdout if done is not None and done.returncode == 0 else None


def authors(path: Path) -> set[str]:
    """E-mail addresses of all who ever committed a change of the file, as they are and by .mailmap,
    in lower case.

    Raises SignoffError in a shallow clone.
    """
    if is_shallow():
        raise SignoffError(
            f"{path}: who wrote it is not known in a shallow clone. Run: git fetch --unshallow"
        )
    lines = (_git("log", "--format=%ae%n%aE", "--", path.as_posix()) or "").splitlines()
    return {email.strip().lower() for email in lines}


def is_shallow() -> bool:
    return (_git("rev-parse", "--is-shallow-repository") or "").strip() == "true"


def canonical(email: str) -> str:
    """The address that .mailmap gives for it, in lower case; itself where none does."""
    contact = _git("check-mailmap", f"<{email}>") or ""
    return contact.rpartition("<")[2].strip().removesuffix(">").lower() or email.lower()


def user() -> str | None:
    """The e-mail address that git would commit under."""
    return (_git("config", "user.email") or "").strip() or None


def versions(path: Path) -> list[str]:
    """The file's text in every commit that changed it, the newest first; empty where a commit
    removed it."""
    commits = (_git("log", "--format=%H", "--", path.as_posix()) or "").split()
    return [_git("show", f"{commit}:./{path.as_posix()}") or "" for commit in commits]


def _differing(names: list[str]) -> list[str]:
    """The files below the names that HEAD has otherwise, or only one of HEAD and the disk has."""
    entries = [
        entry.partition("\t")
        for entry in (_git("ls-tree", "-r", "-z", "HEAD", "--", *names) or "").split("\0")
        if entry
    ]
    committed = {name: about.split()[2] for about, _, name in entries if _counts(PurePath(name))}
    here = [file.as_posix() for name in names for file in _files(Path(name))]
    prefix = (
        _git("rev-parse", "--show-prefix") or ""
    ).strip()  # hash-object reads names as seen from the repository's top
    listing = "".join(f"{prefix}{name}\n" for name in here)
    hashes = (_git("hash-object", "--stdin-paths", stdin=listing) or "").split()
    hash_of = dict(
        zip(here, hashes, strict=False)
    )  # one that cannot be read ends the list: it and the rest differ
    return sorted(
        name
        for name in committed.keys() | set(here)
        if name not in hash_of or hash_of[name] != committed.get(name)
    )


def _files(top: Path) -> list[Path]:
    if not top.is_dir():
        return [top] if top.exists() else []
    return [
        path
        for path in sorted(top.rglob("*"))
        if not path.is_dir() and _counts(path.relative_to(top))
    ]


def _counts(path: PurePath) -> bool:
    """Hidden files and Python's cache are no code, recipe or data."""
    return not any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _git(*arguments: str, stdin: str | None = None) -> str | None:
    """What git says; None where it fails."""
    done = _run(*arguments, stdin=stdin)
    return (
        os.fsdecode(done.stdout) if done is not None and (done.returncode == 0 or stdin) else None
    )


def _run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[bytes] | None:
    """None where there is no git."""
    command = ["git", "--no-replace-objects", *arguments]
    try:
        return subprocess.run(
            command,
            input=None if stdin is None else os.fsencode(stdin),
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        return None
