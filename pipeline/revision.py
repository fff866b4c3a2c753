"""What git says of the project: the commit, what differs from it, and who wrote a file."""

from __future__ import annotations

import subprocess
from pathlib import Path

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


def authors(paths: list[Path]) -> list[str]:
    """E-mail addresses of those who last committed each of the files."""
    found = (_git("log", "-1", "--format=%ae", "--", str(path)) for path in paths)
    return sorted({email.strip() for email in found if email and email.strip()})


def user() -> str | None:
    """The e-mail address that git would commit under."""
    return (_git("config", "user.email") or "").strip() or None


def is_committed(path: Path) -> bool:
    """Is the file in the commit, as it is?"""
    return _git("ls-files", "--error-unmatch", "--", str(path)) is not None and not _git("status", "--porcelain", "--", str(path))


def committed(path: Path) -> str:
    """The file's text in the commit; empty where it has none."""
    return _git("show", f"HEAD:./{path.as_posix()}") or ""


def _git(*arguments: str) -> str | None:
    """What git says; None where it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None
