"""`quantgate clean`: removes what no recipe names any more and DVC does not track."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from pipeline import paths
from pipeline.errors import ArtifactError
from pipeline.evidence import inventory
from pipeline.planning import index

CACHE = Path(".dvc/cache")


def clean(yes: bool) -> None:
    """Asks before it removes, unless `yes`. Raises RecipeError for an index that is out of date,
    ArtifactError if it cannot ask."""
    paths.require_project()
    index.check()  # what a recipe that was renamed has left is tracked until then
    known, tracked = inventory.named(), _tracked()
    unnamed = [
        item
        for item in inventory.items()
        if not inventory.is_named(item, known) and not _touches(item.path, tracked)
    ]
    if not unnamed:
        print("Nothing to remove: a recipe names all that lies in artifacts/.")
        return
    for item in unnamed:
        print(f"{inventory.words(inventory.size_bytes(item.path)):>10}  {item.path}")
    total = inventory.words(sum(inventory.size_bytes(item.path) for item in unnamed))
    if not yes and not _agreed(f"Remove these {len(unnamed)}, {total}?"):
        print("Nothing was removed.")
        return
    for item in unnamed:
        if not inventory.is_named(item, known):  # a stage may have begun while we asked
            _remove(item.path)
    print(f"Removed {len(unnamed)}, {total}.")
    if CACHE.is_dir():
        print(
            f"{CACHE} may hold copies, to bring back another commit's: dvc gc --workspace removes"
            " those that this one has not."
        )


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ArtifactError(f"{question} Nobody can be asked here: give --yes.")
    return click.confirm(question)


def _tracked() -> set[Path]:
    """Whatever DVC has as an output of a stage. Raises ArtifactError where DVC cannot say."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(".") as repo:
            return {Path(out.fs_path).resolve() for out in repo.index.outs}
    except DvcException as error:
        raise ArtifactError(
            f"dvc.yaml: DVC cannot say what it tracks, so nothing is removed: {error}"
        ) from error


def _touches(path: Path, tracked: set[Path]) -> bool:
    """Whether it is an output, in one, or holds one."""
    here = path.resolve() if not path.is_symlink() else path.absolute()
    return any(here == out or out in here.parents or here in out.parents for out in tracked)


def _remove(path: Path) -> None:
    """And the folder that held it, if it is empty now."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    parent = path.parent
    if parent.parent.parent == paths.ARTIFACTS and not any(parent.iterdir()):
        parent.rmdir()
