"""What lies in artifacts/: of which recipe and variant, how large, and how it was judged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline import paths
from pipeline import recipe as recipes
from pipeline.errors import ArtifactError
from pipeline.records import Verdict, read

OF_RECIPES = (
    "checkpoints",
    "sources",
    "calibration",
    "logprobs",
    "traces",
    "reports",
    "cards",
    "metrics",
    "plots",
)
OF_VARIANTS = (
    "models",
    "manifests",
    "evaluations",
    "extensions",
    "verdicts",
    "gates",
    "benchmarks",
    "timings",
    "http",
    "rungs",
)
SUFFIXES = (".timings.json", ".json", ".html", ".md", ".txt", ".lock")
REFERENCE = "reference"


class Item(NamedTuple):
    """A file or folder; `variant` is None for what belongs to a whole recipe."""

    kind: str
    recipe: str
    variant: str | None
    path: Path


def items() -> Iterator[Item]:
    """All that stages left of recipes and variants, named by a recipe or not. Audits and DVC's
    cache are none of them."""
    for kind in OF_RECIPES:
        for path in _in(paths.ARTIFACTS / kind):
            yield Item(kind, _stem(path), None, path)
    for kind in OF_VARIANTS:
        for folder in _in(paths.ARTIFACTS / kind):
            yield from (Item(kind, folder.name, _stem(path), path) for path in _in(folder))


def _in(folder: Path) -> list[Path]:
    return (
        sorted(path for path in folder.iterdir() if path.name != ".gitignore")
        if folder.is_dir()
        else []
    )


def _stem(path: Path) -> str:
    """A recipe's name may have dots in it."""
    if path.is_dir():
        return path.name
    return next(
        (path.name.removesuffix(suffix) for suffix in SUFFIXES if path.name.endswith(suffix)),
        path.name,
    )


def named() -> dict[str, set[str]]:
    """The variants of each recipe in recipes/. Raises RecipeError for a recipe that cannot be
    read."""
    return {name: {*recipes.load(name).variants, REFERENCE} for name in recipes.names()}


def is_named(item: Item, known: dict[str, set[str]]) -> bool:
    return item.recipe in known and (item.variant is None or item.variant in known[item.recipe])


def size_bytes(path: Path) -> int:
    """A file that has several names, as those in DVC's cache, counts once."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    sizes = {
        (stat.st_dev, stat.st_ino): stat.st_size
        for file in files
        if file.is_file()
        for stat in [file.stat()]
    }
    return sum(sizes.values())


def words(count: float) -> str:
    """A size, for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def show() -> None:
    """`quantgate artifacts`."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    paths.require_project()
    known, listed = named(), list(items())
    table = Table(
        "recipe", "variant", "size", "last verdict", title="artifacts", title_justify="left"
    )
    for item in listed:
        if item.kind == "models" and item.variant is not None:
            verdict = (
                _verdict(item.recipe, item.variant)
                if is_named(item, known)
                else "no recipe names it any more"
            )
            table.add_row(
                escape(item.recipe), escape(item.variant), words(size_bytes(item.path)), verdict
            )
    console = Console()
    console.print(table)
    sizes = {
        kind: sum(size_bytes(item.path) for item in listed if item.kind == kind)
        for kind in (*OF_RECIPES, *OF_VARIANTS)
    }
    beside = ", ".join(
        f"{kind} {words(size)}" for kind, size in sizes.items() if size and kind != "models"
    )
    console.print(f"Beside them: {beside or 'nothing'}.", soft_wrap=True, highlight=False)
    if left := [item for item in listed if not is_named(item, known)]:
        total = words(sum(size_bytes(item.path) for item in left))
        hint = f"No recipe names {len(left)} of all these any more, {total}: quantgate clean"
        console.print(hint, soft_wrap=True, highlight=False)


def _verdict(recipe: str, variant: str) -> str:
    path = paths.verdict(recipe, variant)
    try:
        return read(path, Verdict).status if path.is_file() else "not judged"
    except ArtifactError:
        return "verdict unreadable"
