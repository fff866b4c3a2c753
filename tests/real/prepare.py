"""Puts the books-llama recipe into a project: a real checkpoint, HH-RLHF prompts, WikiText-2 and held-out books, real tasks.

    python -m tests.real.prepare DATA [PROJECT]     then: quantgate index && dvc repro require@books-llama

DATA is a folder that is not part of the repository; what is written names it by absolute path and copies none of it
except the two held-out books, as text.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TASKS = {
    "lambada": ("lambada_openai", "loglikelihood", "{{context}}", " {{continuation}}", None),
    "arc_easy_local": ("arc_easy", "multiple_choice", "{{query}}\\nAnswer:", "{{gold}}", "{{choices}}"),
    "piqa_local": ("piqa", "multiple_choice", "{{query}}Answer:", "{{gold}}", "{{choices}}"),
}


def main(data: Path, project: Path) -> None:
    data = data.resolve()
    own = project / "artifacts" / "real"
    own.mkdir(parents=True, exist_ok=True)
    books = own / "held-out-books.txt"
    books.write_text(held_out_books(data))
    prompt_set(project, "real-hh-rlhf", data / "hh_rlhf/helpful_base_prompts.jsonl.gz", "prompt", "MIT")
    prompt_set(project, "real-wikitext-2", data / "wikitext2/wiki.test.raw", None, "CC BY-SA 3.0")
    prompt_set(project, "real-held-out-books", books, None, "public domain (US)")
    tasks = own / "tasks"
    tasks.mkdir(exist_ok=True)
    for name, row in TASKS.items():
        (tasks / f"{name}.yaml").write_text(task(name, data, *row))
    recipe = (HERE / "books-llama.yaml").read_text()
    recipe = recipe.replace("DATA", str(data)).replace("TASKS", tasks.relative_to(project).as_posix())
    (project / "recipes" / "books-llama.yaml").write_text(recipe)


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
    lines = [f"path: {path}", f"sha256: {digest}", f"licence: {licence}", "source: see the data's README"]
    (project / "calibration" / f"{name}.yaml").write_text("\n".join(lines + ([f"field: {field}"] if field else [])) + "\n")


def task(name: str, data: Path, file: str, output_type: str, text: str, target: str, choices: str | None) -> str:
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
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path())
