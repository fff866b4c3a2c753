"""What lies in artifacts/: of which recipe and variant, how large, and how it was judged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from pipeline import paths
from pipeline import recipe as recipes
from pipeline.errors import ArtifactError, QuantgateError
from pipeline.evidence import current, opened
from pipeline.records import Verdict, artifact, read

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
    "audits",
)
OF_STAGES = ("costs", "logs")  # a file a stage, whose name has the recipe and the variant
UNFINISHED = paths.TEMPORARY.name
SUFFIXES = (".timings.json", ".json", ".html", ".md", ".txt", ".lock")
STAGE_FILE = re.compile(
    r"\w+[@.](?P<recipe>.+?)(?:--(?P<variant>[a-z0-9_-]+)(?:\..+)?)?(?:\.job)?\.(?:json|log)"
)
REFERENCE = "reference"
PROCESS = re.compile("[0-9]{1,9}")  # behind the name of a file that a process is writing


class Item(NamedTuple):
    """A file or folder; `variant` is None for what belongs to a whole recipe."""

    kind: str
    recipe: str
    variant: str | None
    path: Path


def items() -> Iterator[Item]:
    """All that stages left of recipes and variants, named by a recipe or not. DVC's cache is none
    of it, nor are the locks of stages."""
    for kind in OF_RECIPES:
        for path in _in(paths.ARTIFACTS / kind):
            yield Item(kind, _stem(path), None, path)
    for kind in OF_VARIANTS:
        for folder in _in(paths.ARTIFACTS / kind):
            yield from (Item(kind, folder.name, _stem(path), path) for path in _in(folder))
    for kind in OF_STAGES:
        for path in _in(paths.ARTIFACTS / kind):
            if (place := STAGE_FILE.fullmatch(path.name)) is not None:
                yield Item(kind, place["recipe"], place["variant"], path)
    for path in _in(paths.TEMPORARY):
        if path.suffix != ".lock":
            yield Item(UNFINISHED, "", None, path)


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
    """The variants of each recipe in recipes/, and its audits, whose stages have costs and logs as
    those of variants have. Raises RecipeError for a recipe that cannot be read."""
    return {
        name: {
            *recipes.load(name).variants,
            REFERENCE,
            *(path.name for path in _in(paths.ARTIFACTS / "audits" / name)),
        }
        for name in recipes.names()
    }


def is_named(item: Item, known: dict[str, set[str]]) -> bool:
    """Whether a recipe names it; of what a stage has not finished, whether the stage still runs. An
    audit's name is none of a variant."""
    if item.kind == UNFINISHED:
        return _in_use(item.path)
    audit = item.kind in OF_STAGES and item.path.name.startswith(("audit.", "audit@"))
    variant = None if item.kind == "audits" or audit else item.variant
    if item.kind == "logs" and variant is None:  # a session's has the variant's name behind a dot
        return any(f"{item.recipe}.".startswith(f"{recipe}.") for recipe in known)
    return item.recipe in known and (variant is None or variant in known[item.recipe])


def _in_use(path: Path) -> bool:
    """A stage's folder, by its lock; a file that is being written, by its process. Of anything else
    nobody knows."""
    if path.with_name(f"{path.name}.lock").is_file():
        return artifact.is_held(path)
    process = path.suffix.removeprefix(".")
    return not PROCESS.fullmatch(process) or psutil.pid_exists(int(process))


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


def show(check: bool = False) -> None:
    """`quantgate artifacts`. `check`: each verdict is decided again, which hashes the artifacts."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    paths.require_project()
    known, listed, stale = named(), list(items()), []
    table = Table(
        "recipe", "variant", "size", "last verdict", title="artifacts", title_justify="left"
    )
    for item in listed:
        if item.kind == "models" and item.variant is not None:
            verdict, why = (
                _verdict(item.recipe, item.variant, check)
                if is_named(item, known)
                else ("no recipe names it any more", "")
            )
            stale += [why] if why else []
            table.add_row(
                escape(item.recipe), escape(item.variant), words(size_bytes(item.path)), verdict
            )
    console = Console()
    console.print(table)
    for why in dict.fromkeys(stale):
        console.print(f"- {why}", soft_wrap=True, highlight=False, markup=False)
    sizes = {
        kind: sum(size_bytes(item.path) for item in listed if item.kind == kind)
        for kind in (*OF_RECIPES, *OF_VARIANTS, *OF_STAGES, UNFINISHED)
    }
    beside = ", ".join(
        f"{kind} {words(size)}" for kind, size in sizes.items() if size and kind != "models"
    )
    console.print(f"Beside them: {beside or 'nothing'}.", soft_wrap=True, highlight=False)
    if left := [item for item in listed if not is_named(item, known)]:
        total = words(sum(size_bytes(item.path) for item in left))
        hint = f"{len(left)} of all these are left over, {total}: quantgate clean"
        console.print(hint, soft_wrap=True, highlight=False)


def _verdict(recipe: str, variant: str, check: bool) -> tuple[str, str]:
    """The last verdict; and with `check` why it does not hold as things are, as `require` would
    find it."""
    path = paths.verdict(recipe, variant)
    if not path.is_file():
        return "not judged", ""
    try:
        word = read(path, Verdict).status
    except ArtifactError:
        return "verdict unreadable", ""
    if not check:
        return word, ""
    try:
        current.verdict(opened.candidate(recipe, variant))
    except QuantgateError as error:
        return f"{word}, not current", str(error)
    return word, ""
