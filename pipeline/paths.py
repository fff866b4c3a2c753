"""Where each step reads and writes, relative to the project folder (the one that holds
dvc.yaml)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import RecipeError

ARTIFACTS = Path("artifacts")
RECIPES = Path("recipes")
PROMPT_SETS = Path("calibration")
TEMPORARY = ARTIFACTS / ".tmp"
LOGS = ARTIFACTS / "logs"
SIGNATURE = "quantgate/bundle.dsse.json"  # in a bundle: the signed list of all its other files


def given(text: str) -> Path:
    """A path as given on the command line, which was called from a folder of its own; commands run
    in the project's."""
    return Path(os.environ.get("QUANTGATE_CALLED_FROM", ""), text)


def log(work: str) -> Path:
    """What the tools and engines printed in the last run of a piece of work."""
    return LOGS / f"{work}.log"


class Place(NamedTuple):
    """Where one artifact lies, and what is known of it."""

    model: Path
    manifest: Path
    evaluation: Path
    extension: Path


def place(recipe: str, variant: str) -> Place:
    return Place(
        model(recipe, variant),
        manifest(recipe, variant),
        evaluation(recipe, variant),
        extension(recipe, variant),
    )


def rungs(recipe: str, variant: str) -> Path:
    """Folder of all that was made and measured while a ladder was climbed, each rung under a hash
    of what it depends on."""
    return ARTIFACTS / "rungs" / recipe / variant


def audit(recipe: str, name: str) -> Path:
    """Folder of all that an audit under a recipe took and found: an artifact that was made
    elsewhere, its records and report."""
    return ARTIFACTS / "audits" / recipe / name


def recipe_name(asked: str) -> str:
    """A recipe may be asked for by its name or by its file, as a shell completes it: tiny of
    recipes/tiny.yaml."""
    path = Path(asked)
    return (
        path.stem
        if path.suffix == ".yaml" and path.resolve().parent == RECIPES.resolve()
        else asked
    )


def recipe(name: str) -> Path:
    return RECIPES / f"{name}.yaml"


def whole_recipe(name: str) -> Path:
    """A recipe that leaves out sections, with their defaults: what `quantgate index` writes, for
    DVC to see them."""
    return RECIPES / "whole" / f"{name}.yaml"


def settings(name: str) -> Path:
    """The file that has all sections of a recipe: its own, or what was written of it."""
    return whole_recipe(name) if whole_recipe(name).is_file() else recipe(name)


def prompt_set(name: str) -> Path:
    return PROMPT_SETS / f"{name}.yaml"


def checkpoint(recipe: str) -> Path:
    return ARTIFACTS / "checkpoints" / f"{recipe}.json"


def source(recipe: str) -> Path:
    """Folder of the pinned files of the source and nothing else: what every tool and engine is
    given. Links, made when needed."""
    return ARTIFACTS / "sources" / recipe


def samples(recipe: str) -> Path:
    return ARTIFACTS / "calibration" / recipe / "samples.json"


def texts(recipe: str) -> Path:
    return ARTIFACTS / "calibration" / recipe / "texts.json"


def model(recipe: str, variant: str) -> Path:
    return ARTIFACTS / "models" / recipe / variant


def manifest(recipe: str, variant: str) -> Path:
    return ARTIFACTS / "manifests" / recipe / f"{variant}.json"


def evaluation(recipe: str, variant: str) -> Path:
    return ARTIFACTS / "evaluations" / recipe / f"{variant}.json"


def logprobs(recipe: str) -> Path:
    """Folder of the reference's stored next-token distributions, one .npy a text."""
    return ARTIFACTS / "logprobs" / recipe


def extension(recipe: str, variant: str) -> Path:
    return ARTIFACTS / "extensions" / recipe / f"{variant}.json"


def verdict(recipe: str, variant: str) -> Path:
    return ARTIFACTS / "verdicts" / recipe / f"{variant}.json"


def gate(recipe: str, variant: str) -> Path:
    """One word, the verdict's status: what the benchmark depends on, so that a moved limit alone
    does not repeat it."""
    return ARTIFACTS / "gates" / recipe / f"{variant}.txt"


def benchmark(recipe: str, variant: str) -> Path:
    return ARTIFACTS / "benchmarks" / recipe / f"{variant}.json"


def trace(recipe: str) -> Path:
    return ARTIFACTS / "traces" / f"{recipe}.json"


def timings(recipe: str, variant: str) -> Path:
    """Every request of a benchmark, raw."""
    return ARTIFACTS / "timings" / recipe / f"{variant}.json"


def http(recipe: str, variant: str) -> Path:
    """A benchmark over HTTP: of a command, not of a stage, since the server may be anywhere."""
    return ARTIFACTS / "http" / recipe / f"{variant}.json"


def card(recipe: str, variant: str) -> Path:
    return ARTIFACTS / "cards" / recipe / f"{variant}.md"


def metrics(recipe: str) -> Path:
    """Folder of one small file a variant, since `dvc metrics show` prints a row a file."""
    return ARTIFACTS / "metrics" / recipe


def plots(recipe: str) -> Path:
    """Folder of the report's charts, as SVG."""
    return ARTIFACTS / "plots" / recipe


def report(recipe: str, suffix: str) -> Path:
    return ARTIFACTS / "reports" / f"{recipe}.{suffix}"


def cost(stage: str) -> Path:
    """What the last run of a stage took: a record beside DVC's outputs, for `quantgate plan`
    alone."""
    return ARTIFACTS / "costs" / f"{stage}.json"


def require_project() -> None:
    """Raises RecipeError unless the working folder is a quantgate project."""
    if not Path("dvc.yaml").is_file():
        raise RecipeError(f"{Path.cwd()}: no dvc.yaml here. Run quantgate in the project's folder.")


PRODUCERS = {
    "checkpoints": "pin",
    "sources": "pin",
    "calibration": "calibrate",
    "evaluations": "evaluate",
    "logprobs": "reference",
    "manifests": "quantize",
    "models": "quantize",
    "rungs": "climb",
    "verdicts": "gate",
    "extensions": "gate",
    "gates": "gate",
    "traces": "trace",
    "reports": "report",
    "benchmarks": "benchmark",
    "timings": "benchmark",
    "cards": "report",
    "metrics": "report",
    "plots": "report",
}
OF_A_RECIPE = (
    "checkpoints",
    "sources",
    "calibration",
    "logprobs",
    "traces",
    "reports",
    "benchmarks",
    "timings",
    "cards",
    "metrics",
    "plots",
)  # one stage makes those of all variants


def producer(path: Path) -> str:
    """The command that makes what lies there: artifacts/KIND/RECIPE[/VARIANT], a record's with
    .json."""
    if path.parts[0] != str(ARTIFACTS):
        return "dvc repro"
    kind, *rest = path.parts[1:]
    if kind == "http":
        return f"quantgate benchmark {rest[0]} --http {path.stem}"
    if kind == "audits":
        return f"quantgate audit MODEL --recipe {rest[0]} --name {rest[1]}"
    return f"dvc repro {_stage(kind, rest, path)}"


def _stage(kind: str, rest: list[str], path: Path) -> str:
    if kind == "costs":
        return path.stem
    if kind in OF_A_RECIPE:
        return f"{PRODUCERS[kind]}@{rest[0].removesuffix(path.suffix)}"
    if path.stem == "reference":
        return f"reference@{rest[0]}"
    variant = rest[1] if kind == "rungs" else path.stem
    climbed = kind in ("evaluations", "manifests", "rungs") and rungs(rest[0], variant).is_dir()
    return f"{'climb' if climbed else PRODUCERS[kind]}@{rest[0]}--{variant}"
