"""What git says of the project: the commit, what differs from it, and who wrote a file."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pipeline.errors import SignoffError
from pipeline.records import Revision

# What an artifact and its verdict follow from. dvc.lock is none of it: DVC writes it while it runs the stages.
WATCHED = ("pipeline", "recipes", "calibration", "environments", "dvc.yaml", "params.yaml")


def now() -> Revision:
    """`commit` is None outside of a git repository or before its first commit."""
    commit = _git("rev-parse", "--verify", "--quiet", "HEAD")
    changed = _git(
        "status", "--porcelain", "--untracked-files=all", "--no-renames", "--", *(p for p in WATCHED if Path(p).exists())
    )
    return Revision(commit=commit.strip() if commit else None, changed=[line[3:] for line in (changed or "").splitlines()])


def authors(path: Path) -> list[str]:
    """E-mail addresses of all who ever committed a change of the file, in lower case. Raises SignoffError in a shallow clone."""
    if (_git("rev-parse", "--is-shallow-repository") or "").strip() == "true":
        raise SignoffError(f"{path}: who wrote it is not known in a shallow clone. Run: git fetch --unshallow")
    return sorted({email.strip().lower() for email in (_git("log", "--format=%ae", "--", str(path)) or "").splitlines()})


def user() -> str | None:
    """The e-mail address that git would commit under."""
    return (_git("config", "user.email") or "").strip() or None


def is_committed(path: Path) -> bool:
    """Is the file in the commit, as it is?"""
    return _git("ls-files", "--error-unmatch", "--", str(path)) is not None and not _git("status", "--porcelain", "--", str(path))


def versions(path: Path) -> list[str]:
    """The file's text in every commit that changed it, the newest first; empty where a commit removed it."""
    commits = (_git("log", "--format=%H", "--", str(path)) or "").split()
    return [_git("show", f"{commit}:./{path.as_posix()}") or "" for commit in commits]


def _git(*arguments: str) -> str | None:
    """What git says; None where it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None
