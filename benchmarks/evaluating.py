"""Does evaluation do more than it must? The reference's tasks beside lm-eval's own `hf` back-end,
on the same items.

    python -m benchmarks.evaluating CHECKPOINT DATA [--items 64] [--rounds 2] [--out FILE]

DATA is a folder with arc_easy.jsonl.gz and lambada_openai.jsonl.gz. lm-eval: float32, batch 16.
Processor seconds are of the tasks alone, without imports and loading, both sides taking turns (A B
B A) in one process, so that a busy machine slows both. Peak memory is the high-water mark of a
process of each side's own."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from pipeline.runtime import environments, machine
from pipeline.runtime.process import ENVIRONMENT
from tests.real.prepare import TASKS, task

SHOTS = 5
MMLU = "mmlu_like"
LIMITS = {MMLU: 0.5, "arc_easy_local": 0.5, "lambada": 0.8}  # of lm-eval's processor time
SIDES = ("ours", "hf")


def tasks(data: Path, folder: Path) -> None:
    """Task files, and five-shot ARC-Easy with its choices as letters: four choices of one token
    after a long shared beginning."""
    for name in ("lambada", "arc_easy_local"):
        (folder / f"{name}.yaml").write_text(
            task(name, data.parent, *TASKS[name]).replace("lm_eval/", f"{data.name}/", 1)
        )
    with gzip.open(data / "arc_easy.jsonl.gz", "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    shots = "".join(f"{_lettered(row)} {'ABCDE'[row['gold']]}\n\n" for row in rows[-SHOTS:])
    items = [{"text": shots + _lettered(row), "gold": row["gold"]} for row in rows[:-SHOTS]]
    (folder / f"{MMLU}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    written = task(MMLU, data, "", "multiple_choice", "{{text}}", "{{gold}}", "PLACE")
    written = written.replace('"PLACE"', "[A, B, C, D]").replace(
        f"{data}/lm_eval/.jsonl.gz", f"{folder}/{MMLU}.jsonl"
    )
    (folder / f"{MMLU}.yaml").write_text(written)


def _lettered(row: dict[str, Any]) -> str:
    choices = "".join(
        f"\n{letter}. {choice}" for letter, choice in zip("ABCDE", row["choices"], strict=False)
    )
    return f"{row['query']}{choices}\nAnswer:"


def run(checkpoint: Path, data: Path, items: int, rounds: int) -> str:
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        tasks(data, Path(folder))
        for name in LIMITS:
            job = {"task": name, "items": items, "folder": folder, "checkpoint": str(checkpoint)}
            found[name] = _measure({**job, "sides": SIDES, "rounds": rounds}, Path(folder))
            alone = {
                side: _measure({**job, "sides": [side], "rounds": 1}, Path(folder))
                for side in SIDES
            }
            found[name]["peak_gb"] = {side: answer["peak_gb"] for side, answer in alone.items()}
    return _page(found, checkpoint, items, rounds)


def _measure(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    request, answer = folder / "job.json", folder / "answer.json"
    request.write_text(json.dumps(job))
    command = [
        str(environments.python("openvino")),
        "-m",
        "benchmarks.evaluating_worker",
        str(request),
        str(answer),
    ]
    subprocess.run(command, env={**os.environ, **ENVIRONMENT, "TQDM_DISABLE": "1"}, check=True)
    result: dict[str, Any] = json.loads(answer.read_text())
    return result


def _page(found: dict[str, dict[str, Any]], checkpoint: Path, items: int, rounds: int) -> str:
    weights = found[MMLU]["weights_bytes"] / 1e9
    most = 1.5 * weights + 1
    lines = [
        "# What evaluation costs beside lm-eval's own back-end",
        "",
        (
            f"`python -m benchmarks.evaluating`, {checkpoint.name} ({weights:.2f} GB in float32),"
            f" {items} items of each task, median of {rounds} rounds in which the two take turns."
            f" lm-eval: `hf`, float32, batch 16. Peak memory may be {most:.2f} GB: 1.5 times the"
            " weights and 1 GB."
        ),
        "",
        (
            "| items | ours, CPU s | lm-eval, CPU s | ratio (rounds) | aim | ours, peak GB |"
            " lm-eval, peak GB | most apart, nats | of the log-likelihood |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, answer in found.items():
        ours, theirs = (answer["cpu_s"][side] for side in SIDES)
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        peaks = answer["peak_gb"]
        pairs = [*zip(*(answer["loglikelihoods"][side] for side in SIDES), strict=True)]
        apart = max(abs(a - b) for a, b in pairs)
        share = max(abs(a - b) / abs(b) for a, b in pairs)
        met = statistics.median(ratios) <= LIMITS[name] and peaks["ours"] <= most
        lines.append(
            f"| {name} | {statistics.median(ours):.1f} | {statistics.median(theirs):.1f} |"
            f" {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
            f" {LIMITS[name]}: {'met' if met else 'MISSED'} | {peaks['ours']:.2f} |"
            f" {peaks['hf']:.2f} | {apart:.1e} | {share:.1e} |"
        )
    host = machine.describe()
    lines += [
        "",
        (
            f"{host['cpu']}, {host['cores']} cores ({', '.join(host['instruction_sets'])}),"
            f" {host['system']}, shared with other work."
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/evaluating.md"))
    given = parser.parse_args()
    page = run(given.checkpoint, given.data.resolve(), given.items, given.rounds)
    given.out.write_text(page)
    print(page)
