"""What git says of the project, also where its index was told to look away."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import SignoffError
from pipeline.evidence import revision
from tests.release import commit, git

WATCHED = [Path("code"), Path("recipe.yaml")]


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One in a subfolder of its repository, with an ignored cache."""
    (tmp_path / "project" / "code" / "__pycache__").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    monkeypatch.chdir(tmp_path / "project")
    Path("code/gate.py").write_text("limit = 1\n")
    Path("recipe.yaml").write_text("a: 1\n")
    Path(".gitignore").write_text("__pycache__/\n")
    Path("code/__pycache__/gate.pyc").write_text("")
    commit("first")
    return tmp_path


def changed() -> None:
    Path("code/gate.py").write_text("limit = 2\n")


def assumed_unchanged() -> None:
    changed()
    git("update-index", "--assume-unchanged", "code/gate.py")


def skipped() -> None:
    changed()
    git("update-index", "--skip-worktree", "code/gate.py")


def excluded() -> None:
    Path("code/more.py").write_text("")
    Path("../.git/info/exclude").write_text("more.py\n")


def ignored() -> None:
    Path("code/more.py").write_text("")
    Path("code/.gitignore").write_text("*\n")


def removed() -> None:
    Path("code/gate.py").unlink()


def replaced() -> None:
    """A commit that git shows in another's place."""
    first = git("rev-parse", "HEAD").strip()
    changed()
    commit("another")
    second = git("rev-parse", "HEAD").strip()
    git("reset", "-q", "--soft", first)
    git("replace", first, second)


@pytest.mark.parametrize(
    "change", [changed, assumed_unchanged, skipped, excluded, ignored, removed, replaced]
)
def test_what_differs_is_found_whatever_the_index_says(change: Callable[[], None]) -> None:
    assert revision.now(WATCHED).changed == []
    change()
    assert revision.now(WATCHED).changed == [
        "code/more.py" if change in (excluded, ignored) else "code/gate.py"
    ]


def test_what_is_committed_is_compared_with_the_commit() -> None:
    assert revision.is_committed(Path("recipe.yaml"))
    Path("recipe.yaml").write_text("a: 2\n")
    git("update-index", "--assume-unchanged", "recipe.yaml")
    assert not revision.is_committed(Path("recipe.yaml"))
    assert not revision.is_committed(Path("nothing.yaml"))


def test_a_commit_of_something_else_is_no_other_state() -> None:
    before = revision.now(WATCHED)
    Path("README").write_text("x")
    commit("a word")
    assert revision.now(WATCHED) == before
    changed()
    commit("a limit")
    assert revision.now(WATCHED) != before


def test_a_file_is_what_a_checkout_of_the_commit_would_have() -> None:
    first = git("rev-parse", "HEAD").strip()
    changed()
    commit("a limit")
    assert revision.content(first, Path("code/gate.py")) == b"limit = 1\n"
    assert revision.content(first, Path("code/more.py")) is None
    assert revision.content("c" * 40, Path("code/gate.py")) is None


def test_without_git_nothing_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert revision.now(WATCHED).commit is None
    assert not revision.is_committed(Path("recipe.yaml"))
    assert revision.versions(Path("recipe.yaml")) == []


def test_authors_are_known_as_they_committed_and_by_mailmap_and_not_in_a_shallow_clone(
    repository: Path,
) -> None:
    Path("recipe.yaml").write_text("a: 2\n")
    git("commit", "-aqm", "two", "--author", "Zed <ZED@old.example>")
    Path("../.mailmap").write_text("Zed <zed@new.example> <zed@old.example>\n")
    commit("map")
    assert revision.authors(Path("recipe.yaml")) == {
        "eve@example.org",
        "zed@old.example",
        "zed@new.example",
    }
    assert revision.canonical("zed@old.example") == "zed@new.example"
    assert revision.canonical("ada@example.org") == "ada@example.org"
    clone = ["git", "clone", "-q", "--depth", "1", f"file://{repository}", "../shallow"]
    subprocess.run(clone, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("../shallow/project")
        with pytest.raises(SignoffError, match="git fetch --unshallow"):
            revision.authors(Path("recipe.yaml"))
