"""`python -m tests.panel.run RECIPE TABLE.md [--fast]`: every item of the panel through the real
load check and gate.

RECIPE has been run before (`dvc repro reference@RECIPE` and its variants up to gate): its
reference, its artifacts and its noise floors are used. Prints one line an item and writes the
table. Exit code 1 if a damage passed or a benign item failed."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import paths, records
from pipeline import recipe as recipes
from pipeline.errors import CalibrationError
from pipeline.evidence import settings
from pipeline.recipe import Recipe, Variant
from pipeline.records import Status, artifact
from pipeline.runtime import environments, process
from pipeline.stages import evaluate
from pipeline.stages import gate as gate_stage
from tests.panel.items import BENIGN, DAMAGES, Item

AUTOAWQ = Path("artifacts/autoawq")
HERE = Path(__file__).resolve().parent
WORDS = {"PASS": "passed", "FAIL": "caught", "INCONCLUSIVE": "undecided"}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("table", type=Path)
    parser.add_argument("--fast", action="store_true", help="the items that `make test` runs")
    parser.add_argument(
        "--only", nargs="*", help="judge these again and keep the others' rows of the last run"
    )
    options = parser.parse_args()
    name, kept = options.recipe, options.table.with_suffix(".json")
    found: dict[str, tuple[Status, str, float]] = (
        json.loads(kept.read_text()) if options.only and kept.is_file() else {}
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    long = recipes.load(name).evaluate.long_context is not None
    for item in build(
        name,
        [item for item in [*DAMAGES, *BENIGN] if _asked(item, options) and (long or not item.long)],
    ):
        start = time.monotonic()
        status, why = repeated_token(name) if item.made == "calibration" else judged(name, item)
        found[item.name] = status, why, time.monotonic() - start
        kept.write_text(json.dumps(found, indent=1))
        wrong = "" if status == _wanted(item) else "WRONG "
        print(
            f"{wrong}{item.name}: {WORDS[status]}: {why} ({found[item.name][2]:.0f} s)",
            flush=True,
        )
    rows = [(item, *found[item.name]) for item in [*DAMAGES, *BENIGN] if item.name in found]
    options.table.write_text(table(name, rows))
    return int(any(status != _wanted(item) for item, status, *_ in rows))


def _wanted(item: Item) -> Status:
    return "FAIL" if item in DAMAGES else "PASS"


def _asked(item: Item, options: argparse.Namespace) -> bool:
    return item.name in options.only if options.only else item.fast or not options.fast


def build(name: str, items: list[Item]) -> Iterator[Item]:
    """Makes all artifacts in one process, then hands them out one by one, each in its place while
    it is judged."""
    recipe = recipes.load(name)
    with artifact.stage_folder(f"panel.{name}") as folder:
        jobs = [
            _job(name, recipe, item, folder)
            for item in items
            if item.made in ("artifact", "checkpoint", "recipe")
        ]
        stored = _build(jobs, folder) if jobs else {}
        for item in items:
            if item.made == "calibration":
                yield item
            else:
                _install(name, recipe, item, folder / item.name, stored.get(item.name))
                try:
                    yield item
                finally:
                    _remove(name, variant_name(item))


def _build(jobs: list[dict[str, Any]], folder: Path) -> dict[str, dict[str, int]]:
    """The stored types that an honest manifest would give, by item."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    python, types = environments.python("openvino"), folder / "types.json"
    command = [python, "-m", "tests.panel.build", folder / "jobs.json", types]
    subprocess.run(command, check=True, env={**os.environ, **process.ENVIRONMENT})
    found: dict[str, dict[str, int]] = json.loads(types.read_text())
    return found


def _job(name: str, recipe: Recipe, item: Item, folder: Path) -> dict[str, Any]:
    return {
        "item": dataclasses.asdict(item),
        "variant": claimed(recipe, item),
        "source": recipe.model.path,
        "samples": str(paths.samples(name)),
        "base": str(paths.model(name, item.of)),
        "work": str(folder),
        "out": str(folder / item.name),
    }


def claimed(recipe: Recipe, item: Item) -> dict[str, Any]:
    """The item's claim as a variant; groups are as large as the model's own variant has them, since
    not every width divides."""
    group = (
        {"group_size": recipe.variants["ov-int4"].groups_of} if "group_size" in item.variant else {}
    )
    return item.variant | group


def variant_name(item: Item) -> str:
    return f"panel-{item.name}"


def _install(
    name: str, recipe: Recipe, item: Item, made: Path, stored: dict[str, int] | None
) -> None:
    """Puts the artifact where a variant's is, with a manifest that says what its maker would
    honestly have said."""
    target = paths.model(name, variant_name(item))
    if item.made == "serve":
        made = paths.model(name, item.of)
    elif item.made == "given":
        made = autoawq(name, str(recipe.model.path), recipe.variants["ov-int4"].groups_of)
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(made, target, copy_function=shutil.copyfile)
    base = records.read(
        paths.manifest(name, item.of or next(iter(recipe.variants))), records.Manifest
    )
    types = stored or (
        base.stored_types if item.made == "serve" else {item.claims: base.layers.expected}
    )
    base.model_copy(
        update={
            "variant": variant_name(item),
            "engine": item.engine,
            "weights": item.claims,
            "stored_types": types,
            "files": artifact.hash_files(target),
        }
    ).write(paths.manifest(name, variant_name(item)))


def autoawq(name: str, source: str, group_size: int) -> Path:
    """Real output of autoawq 0.2.9 on a CPU, in an environment that is made for it once."""
    environment, out = AUTOAWQ / "environment", AUTOAWQ / name
    if not (environment / "made").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        subprocess.run(
            [environment / "bin" / "pip", "install", "-q", "--no-deps", "-r", HERE / "autoawq.txt"],
            check=True,
        )
        (environment / "made").touch()
    if not (out / "model.safetensors").is_file():
        command = [
            environment / "bin" / "python",
            "-W",
            "ignore",
            HERE / "autoawq_cpu.py",
            source,
            paths.samples(name),
            out,
        ]
        subprocess.run([*command, str(group_size)], check=True)
    return out


def _remove(name: str, variant: str) -> None:
    """Nothing of the panel stays where the recipe's own records lie."""
    shutil.rmtree(paths.model(name, variant))
    for record in (paths.manifest, paths.evaluation, paths.extension, paths.verdict, paths.gate):
        record(name, variant).unlink(missing_ok=True)


def judged(name: str, item: Item) -> tuple[Status, str]:
    with _claimed(name, item):
        evaluate.run(name, variant_name(item))
    with _claimed(
        name, dataclasses.replace(item, settings={} if item.made == "serve" else item.settings)
    ):
        _as_asked(name, item)
        gate_stage.run(name, variant_name(item))
    verdict = records.read(paths.verdict(name, variant_name(item)), records.Verdict)
    wrong = (
        [check for check in verdict.checks if check.status == verdict.status]
        if verdict.status != "PASS"
        else []
    )
    return verdict.status, reasons(wrong) if wrong else closest(verdict)


def _as_asked(name: str, item: Item) -> None:
    """The gate refuses an evaluation under other serving settings than the recipe's; here that is
    what is tried."""
    path = paths.evaluation(name, variant_name(item))
    evaluation = records.read(path, records.Evaluation)
    evaluation.model_copy(
        update={
            "requested": settings.evaluated_under(
                recipes.load(name), variant_name(item), item.engine
            )
        }
    ).write(path)


@contextmanager
def _claimed(name: str, item: Item) -> Iterator[None]:
    """The recipe with the item as a variant, and served as the item wants it, as long as it is
    judged."""
    real = recipes.load

    def load(asked: str) -> Recipe:
        found = real(asked)
        if asked != name:
            return found
        serve = found.serve.model_copy(update=item.settings if item.made == "serve" else {})
        variants = {
            **found.variants,
            variant_name(item): Variant.model_validate(claimed(found, item)),
        }
        return found.model_copy(update={"serve": serve, "variants": variants})

    recipes.load = load
    try:
        yield
    finally:
        recipes.load = real


def reasons(checks: list[records.Check]) -> str:
    """The refusal whole, or the names of the checks with their values."""
    if checks[0].name == "load":
        return f"refused: {' '.join(checks[0].reason.split())}"
    shown = [f"{check.name} {check.value:.4g} (limit {check.limit:g})" for check in checks]
    return "; ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def closest(verdict: records.Verdict) -> str:
    """The mean KL as served, by which close calls show."""
    found = [check for check in verdict.checks if check.name.startswith("mean_kl deployed")]
    return ", ".join(f"{check.name} {check.value:.2g} (limit {check.limit:g})" for check in found)


def repeated_token(name: str) -> tuple[Status, str]:
    """Calibration rows of one token: the real calibrate stage must refuse them."""
    recipe = recipes.load(name)
    file = paths.PROMPT_SETS / "panel-one-token.jsonl"
    line = json.dumps({"text": "the " * recipe.calibration.tokens})
    file.write_text("\n".join([line] * 2 * recipe.calibration.samples))
    prompts = {
        "path": str(file),
        "sha256": artifact.hash_file(file, file.name).sha256,
        "field": "text",
        "licence": "ours",
        "source": "generated",
    }
    texts = {
        text: recipes.load_prompt_set(text).model_dump()
        for text in recipe.evaluate.perplexity.texts
    }
    with artifact.stage_folder(f"panel.calibrate.{name}") as folder:
        job = {
            "checkpoint": recipe.model.path,
            "calibration": (
                recipe.calibration.model_dump() | {"prompts": "one-token", "chat_template": False}
            ),
            "perplexity": recipe.evaluate.perplexity.model_dump(),
            "prompt_sets": (
                texts | {"one-token": recipes.PromptSet.model_validate(prompts).model_dump()}
            ),
            "out": str(folder),
        }
        try:
            process.run("openvino", "calibrate", job, folder)
        except CalibrationError as error:
            return "FAIL", f"refused: {error}"
        finally:
            file.unlink()
    return "PASS", "calibration took it"


def table(name: str, rows: list[tuple[Item, Status, str, float]]) -> str:
    """Markdown: how many were right, then one row an item, with the seconds from load to
    verdict."""
    caught = [status == "FAIL" for item, status, *_ in rows if item in DAMAGES]
    passed = [status == "PASS" for item, status, *_ in rows if item in BENIGN]
    counts = (
        f"{sum(caught)} of {len(caught)} damages caught, {sum(passed)} of {len(passed)} benign"
        " items passed."
    )
    lines = [f"## {name}", "", counts, ""]
    lines += [
        "| item | kind | shipped as | engine | claims | outcome | s | by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for item, status, why, seconds in rows:
        kind = "damage" if item in DAMAGES else "benign"
        short = re.sub(r"artifacts/models/\S+: ", "", why.replace("|", "\\|"))[:220]
        lines.append(
            f"| {item.name} | {kind} | {item.shipped} | {item.engine} | {item.claims} |"
            f" {WORDS[status]} | {seconds:.0f} | {short} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
