"""Writes what the tiny recipe reads besides the checkpoint: held-out items, held-out text,
calibration prompts.

python recipes/tiny/make_data.py        (standard library only; same seed, same bytes)
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

from world import Item, World

HERE = Path(__file__).resolve().parent
CALIBRATION = HERE.parent.parent / "calibration"
TASK = """# Made by make_data.py; {note}.
task: world_{name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: recipes/tiny/tasks/{name}.jsonl
test_split: test
{how}
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
CHOOSE = {
    "note": "multiple choice over the answers' log-likelihoods",
    "metric": "acc",
    "how": """output_type: multiple_choice
doc_to_text: "{{query}}"
doc_to_target: "{{gold}}"
doc_to_choice: "{{choices}}"
target_delimiter: \"\"""",
}
GENERATE = {
    "note": "the generated answer, up to the end token, must be the true one to the letter",
    "metric": "exact_match",
    "how": """output_type: generate_until
doc_to_text: "{{query}}"
doc_to_target: "{{choices[gold]}}"
generation_kwargs:
  until: []
  do_sample: false
  max_gen_toks: 24""",
}


def write_task(name: str, items: list[Item], form: dict[str, str]) -> None:
    rows = [
        {"query": i.query, "choices": i.choices, "gold": i.gold}
        | ({"about": i.about} if i.about else {})
        for i in items
    ]
    lines = [json.dumps(row) for row in rows]
    (HERE / "tasks" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (HERE / "tasks" / f"{name}.yaml").write_text(TASK.format(name=name, **form))


def write_prompt_set(name: str, file: Path, field: str | None, text: str) -> None:
    file.write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    lines = [
        f"path: {file.relative_to(CALIBRATION.parent).as_posix()}",
        f"sha256: {digest}",
        *([f"field: {field}"] if field else []),
        "licence: the project's own",
        "source: made by recipes/tiny/make_data.py",
    ]
    (CALIBRATION / f"{name}.yaml").write_text("\n".join(lines) + "\n")


def main() -> None:
    world = World()
    (HERE / "tasks").mkdir(exist_ok=True)
    write_task("facts", world.fact_items(seed=1, count=1200), CHOOSE)
    write_task("sums", world.sum_items(seed=2, count=500), CHOOSE)
    write_task("sentences", world.sentence_items(seed=3, count=300), CHOOSE)
    write_task(
        "answers",
        world.fact_items(seed=6, count=100) + world.sum_items(seed=7, count=100),
        GENERATE,
    )
    # Documents are set apart by the special tokens that set them apart in training; tokenizers read
    # them as such.
    write_prompt_set(
        "tiny-text",
        CALIBRATION / "tiny-text.txt",
        None,
        "</s><s>".join(world.held_out_text(4, 400)),
    )
    stream = world.documents(random.Random(5))
    prompts = [json.dumps({"text": next(stream)}) for _ in range(1500)]
    write_prompt_set(
        "tiny-prompts", CALIBRATION / "tiny-prompts.jsonl", "text", "\n".join(prompts) + "\n"
    )


if __name__ == "__main__":
    main()
