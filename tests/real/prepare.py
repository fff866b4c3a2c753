"""Puts the recipe of a real checkpoint into a project: HH-RLHF prompts, WikiText-2, for books-llama
held-out books, real tasks.

    python -m tests.real.prepare RECIPE DATA [PROJECT] then: quantgate index && dvc repro
    require@RECIPE

RECIPE is one of those beside this file. DATA is a folder that is not part of the repository; what
is written names it by absolute path and copies none of it except the two held-out books, as text.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
TASKS = {
    "lambada": ("lambada_openai", "loglikelihood", "{{context}}", " {{continuation}}", None),
    "arc_easy_local": (
        "arc_easy",
        "multiple_choice",
        "{{query}}\\nAnswer:",
        "{{gold}}",
        "{{choices}}",
    ),
    "piqa_local": ("piqa", "multiple_choice", "{{query}}Answer:", "{{gold}}", "{{choices}}"),
}


def main(name: str, data: Path, project: Path) -> None:
    """Raises Unavailable if the checkpoint cannot be had."""
    data = data.resolve()
    own = project / "artifacts" / "real"
    own.mkdir(parents=True, exist_ok=True)
    recipe = (HERE / f"{name}.yaml").read_text()
    if "real-held-out-books" in recipe:
        books = own / "held-out-books.txt"
        books.write_text(held_out_books(data))
        prompt_set(project, "real-held-out-books", books, None, "public domain (US)")
    prompt_set(
        project, "real-hh-rlhf", data / "hh_rlhf/helpful_base_prompts.jsonl.gz", "prompt", "MIT"
    )
    prompt_set(project, "real-wikitext-2", data / "wikitext2/wiki.test.raw", None, "CC BY-SA 3.0")
    tasks = own / "tasks"
    tasks.mkdir(exist_ok=True)
    for task_name, row in TASKS.items():
        (tasks / f"{task_name}.yaml").write_text(task(task_name, data, *row))
    given = {"CHECKPOINT": checkpoint(name, data), "TASKS": tasks.relative_to(project)}
    for word, path in given.items():
        recipe = recipe.replace(word, path.as_posix())
    (project / "recipes" / f"{name}.yaml").write_text(recipe)


def checkpoint(name: str, data: Path) -> Path:
    """The folder of a real checkpoint: one of the data, or one that a package brings, which is kept
    in the cache folder.

    Raises Unavailable, with the reason.
    """
    beside = data / "checkpoints"
    if (beside / name / "config.json").is_file():
        return beside / name
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "quantgate"
        / "checkpoints"
    )
    folder = Path(os.environ.get("QUANTGATE_REAL_CHECKPOINTS", cache)) / name
    fetch = beside / "fetch-real"
    with locked(folder):
        if not (folder / "model.safetensors").is_file():
            if not fetch.is_file():
                raise Unavailable(
                    f"no {name} in {folder.parent} (QUANTGATE_REAL_CHECKPOINTS) and no {fetch} to"
                    " bring it"
                )
            done = subprocess.run(
                [sys.executable, fetch, name, folder], capture_output=True, text=True, check=False
            )
            shutil.rmtree(folder.parent / f".{name}.work", ignore_errors=True)
            if done.returncode:
                raise Unavailable(
                    f"{fetch.name} could not bring {name}:"
                    f" {(done.stderr.strip().splitlines() or ['?'])[-1]}"
                )
    return folder


class Unavailable(Exception):
    """A checkpoint that cannot be had here."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """For one process at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def held_out_books(data: Path) -> str:
    """The two books that the checkpoint never saw: training.json says how they were set apart."""
    with gzip.open(data / "books/books_children.jsonl.gz", "rt", encoding="utf-8") as stream:
        books = [json.loads(line) for line in stream]
    seed = json.loads((data / "checkpoints/books-llama/training.json").read_text())["args"]["seed"]
    order = list(range(len(books)))
    random.Random(seed).shuffle(order)
    return "\n\n".join(books[index]["text"] for index in order[-2:])


def prompt_set(project: Path, name: str, path: Path, field: str | None, licence: str) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    lines = [
        f"path: {path}",
        f"sha256: {digest}",
        f"licence: {licence}",
        "source: see the data's README",
    ]
    (project / "calibration" / f"{name}.yaml").write_text(
        "\n".join(lines + ([f"field: {field}"] if field else [])) + "\n"
    )


def task(
    name: str, data: Path, file: str, output_type: str, text: str, target: str, choices: str | None
) -> str:
    lines = [
        f"task: {name}",
        "dataset_path: json",
        f"dataset_kwargs: {{data_files: {{test: {data}/lm_eval/{file}.jsonl.gz}}}}",
        "test_split: test",
        f"output_type: {output_type}",
        f'doc_to_text: "{text}"',
        f'doc_to_target: "{target}"',
        *([f'doc_to_choice: "{choices}"'] if choices else []),
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else Path())
