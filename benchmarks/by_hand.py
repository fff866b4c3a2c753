"""SmolLM2 and six variants through `dvc repro`, and the same by hand with each tool's own command:
what each part takes.

    python -m benchmarks.by_hand DATA [--folder FOLDER] [--items N] [--windows N] [--variants NAME
    ...] [--blocks N] [--out FILE]

DATA is the folder that tests.real.prepare reads. By hand is what the tools' own pages say:
`optimum-cli export openvino`, GPTQModel's example, `lm_eval` once an artifact on the back-end of
its engine, the usual perplexity loop over the same windows of WikiText-2, and `vllm bench serve` or
a loop over GenAI's pipeline with as many requests. It has no KL, no float32 view, no check of the
files and no verdict. A run that was stopped goes on with the part that it was at: `dvc repro` by
itself, the parts by hand by what FOLDER/spent.json has."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from pipeline import paths, records
from pipeline import recipe as recipes
from pipeline.engines import server
from pipeline.engines.server import Served
from pipeline.recipe import Recipe, Variant
from pipeline.records import Benchmark, Record, StageCost, Trace
from pipeline.runtime import environments, machine
from pipeline.runtime.process import ENVIRONMENT
from tests.conftest import commit_all, make_project
from tests.real import prepare
from tests.real.test_smollm2 import cut

NAME = "smollm2-135m"
VARIANTS = ("ov-bf16", "ov-int8", "ov-int4", "vllm-bf16", "gptq-int4", "awq-int4")
FORMATS = {
    "bf16": ("fp16",),
    "int8": ("int8",),
    "int4": ("int4", "--ratio", "1.0"),
}  # of optimum-cli, its 16 bits
GOAL = 0.6  # of the wall time by hand
SAMPLE_S = 0.5
SERVED = "served"


class Spent(Record):
    """Of one part: wall time, and processor time of all its processes."""

    wall_s: float
    processor_s: float


class Ledger(Record):
    """What is finished: runs of dvc repro (several, if it was stopped), and parts by hand by their
    name."""

    quantgate: list[Spent]
    by_hand: dict[str, Spent]


@contextlib.contextmanager
def watched(found: list[Spent]) -> Iterator[None]:
    """Appends what this process and its descendants spend inside. Each is looked at until it ends,
    since what is killed is in no parent's account."""
    own, seen, done, start = psutil.Process(), {}, threading.Event(), time.monotonic()

    def look() -> None:
        for process in (own, *own.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it ended between listing and reading
                times = process.cpu_times()
                seen[process.pid, process.create_time()] = times.user + times.system

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            look()

    look()
    before = sum(seen.values())
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        look()
        found.append(
            Spent(wall_s=time.monotonic() - start, processor_s=sum(seen.values()) - before)
        )


class Hand:
    """The parts by hand, each done once and noted; `folder` is the project's, as dvc repro left
    it."""

    def __init__(self, recipe: Recipe, folder: Path, source: Path, ledger: Path) -> None:
        self._recipe, self._folder, self._source, self._ledger = recipe, folder, source, ledger
        self._out = folder / "by-hand"
        self._out.mkdir(exist_ok=True)

    def run(self) -> None:
        self._measure("source", "reference", self._source)
        for name in self._recipe.variants:
            model = self._make(name)
            self._measure(name, self._recipe.variants[name].engine, model)
            self._part(f"{name}: speed", self._speed, name, model)

    def _part(self, name: str, act: Callable[..., None], *arguments: Any) -> None:
        ledger = records.read(self._ledger, Ledger)
        if name in ledger.by_hand:
            return
        print(f"by hand: {name}", flush=True)
        found: list[Spent] = []
        with watched(found):
            act(*arguments)
        ledger.model_copy(update={"by_hand": ledger.by_hand | {name: found[0]}}).write(self._ledger)

    def _make(self, name: str) -> Path:
        variant, out = self._recipe.variants[name], self._out / name
        if variant.engine == "vllm" and variant.quantizer is None:
            return self._source
        self._part(f"{name}: make", self._quantize, variant, out)
        return out

    def _quantize(self, variant: Variant, out: Path) -> None:
        making = out.with_suffix(".part")
        shutil.rmtree(making, ignore_errors=True)
        if variant.engine == "openvino":
            groups = ("--group-size", str(variant.groups_of)) if variant.weights == "int4" else ()
            options = (
                "--task",
                "text-generation-with-past",
                "--weight-format",
                *FORMATS[variant.weights],
                *groups,
            )
            run(
                [
                    program("openvino", "optimum-cli"),
                    "export",
                    "openvino",
                    "-m",
                    str(self._source),
                    *options,
                    str(making),
                ]
            )
        else:
            samples = str(paths.samples(NAME).resolve())
            worker(
                "gptq",
                "quantize",
                str(variant.quantizer),
                str(self._source),
                samples,
                str(variant.groups_of),
                str(making),
            )
        making.replace(out)

    def _measure(self, name: str, engine: str, model: Path) -> None:
        self._part(f"{name}: lm_eval", self._lm_eval, engine, model)
        texts = str(paths.texts(NAME).resolve())
        environment = "vllm" if engine == "vllm" else "openvino"
        self._part(
            f"{name}: perplexity", worker, environment, "perplexity", engine, str(model), texts
        )

    def _lm_eval(self, engine: str, model: Path) -> None:
        longest = self._recipe.serve.max_model_len
        back_end, own, batch = {
            "reference": ("hf", ",dtype=float32", "16"),
            "openvino": ("openvino", "", "16"),
            "vllm": ("vllm", f",dtype=bfloat16,max_model_len={longest},enforce_eager=True", "auto"),
        }[engine]
        tasks = self._recipe.evaluate.tasks
        command = [
            program("vllm" if engine == "vllm" else "openvino", "lm_eval"),
            "run",
            "--model",
            back_end,
            "--model_args",
            f"pretrained={model}{own}",
            "--device",
            "cpu",
            "--batch_size",
            batch,
            "--tasks",
            ",".join(tasks),
            "--include_path",
            str(self._recipe.evaluate.task_path),
            "--limit",
            str(max(count for count in tasks.values() if isinstance(count, int))),
        ]
        run(command)

    def _speed(self, name: str, model: Path) -> None:
        plan = self._recipe.benchmark
        prompts = [request.prompt for request in records.read(paths.trace(NAME), Trace).requests]
        if self._recipe.variants[name].engine == "openvino":
            loads = [str(plan.repeats), str(plan.output_tokens), *map(str, plan.concurrency)]
            worker("openvino", "speed", str(model), str(paths.trace(NAME).resolve()), *loads)
            return
        length = sum(map(len, prompts)) // len(prompts)
        with (
            tempfile.TemporaryDirectory() as log,
            server.served(
                Served("vllm", model.resolve(), self._recipe.serve, SERVED), Path(log)
            ) as running,
        ):
            for concurrency in plan.concurrency:
                run(
                    [
                        program("vllm", "vllm"),
                        "bench",
                        "serve",
                        "--backend",
                        "openai",
                        "--base-url",
                        running.url.removesuffix("/v1"),
                        "--model",
                        SERVED,
                        "--tokenizer",
                        str(model),
                        "--dataset-name",
                        "random",
                        "--random-input-len",
                        str(length),
                        "--random-output-len",
                        str(plan.output_tokens),
                        "--ignore-eos",
                        "--num-prompts",
                        str(plan.requests * plan.repeats),
                        "--max-concurrency",
                        str(concurrency),
                        "--temperature",
                        "0",
                        "--disable-tqdm",
                    ]
                )


def program(environment: str, name: str) -> str:
    return str(environments.python(environment).with_name(name))


def worker(environment: str, *arguments: str) -> None:
    root = Path(__file__).resolve().parents[1]
    command = [str(environments.python(environment)), "-m", "benchmarks.by_hand_worker", *arguments]
    run(command, PYTHONPATH=str(root))


def run(command: Sequence[str], **own: str) -> None:
    surroundings = {
        **os.environ,
        **ENVIRONMENT,
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        **own,
    }
    subprocess.run(command, env=surroundings, check=True)


def project(given: argparse.Namespace) -> Path:
    """The project of the recipe, made smaller where that is asked for. Returns the source
    checkpoint."""
    folder: Path = given.folder
    if (folder / "dvc.yaml").is_file():
        return Path(YAML(typ="safe").load(folder / paths.recipe(NAME))["model"]["path"])
    make_project(folder)
    prepare.main(NAME, given.data, folder)
    source = prepare.checkpoint(NAME, given.data)
    if given.blocks:
        cut(source, given.blocks, folder / "cut")
        source = folder / "cut"
    file = folder / paths.recipe(NAME)
    asked = YAML().load(file)
    asked["model"]["path"] = str(source.resolve())
    asked["variants"] = {name: asked["variants"][name] for name in given.variants}
    if given.items:
        asked["evaluate"]["tasks"] = dict.fromkeys(asked["evaluate"]["tasks"], given.items)
    if given.windows:
        asked["evaluate"]["perplexity"]["max_windows"] = given.windows
    YAML().dump(asked, file)
    with contextlib.chdir(folder):
        subprocess.run(["quantgate", "index"], check=True)
        commit_all()
    return source


def quantgate(ledger: Path) -> None:
    """All of the recipe up to the report. What a stopped run spent counts too."""
    found: list[Spent] = []
    try:
        with watched(found):
            done = subprocess.run(["dvc", "repro", "--keep-going", f"report@{NAME}"], check=False)
    finally:
        known = records.read(ledger, Ledger)
        known.model_copy(update={"quantgate": [*known.quantgate, *found]}).write(ledger)
    if done.returncode:
        sys.exit(f"dvc repro ended with {done.returncode}")


def require_timed(recipe: Recipe) -> None:
    """By hand every artifact is timed; dvc repro times those that passed."""
    untimed = [
        f"{name}: {benchmark.reason}"
        for name in recipe.variants
        if not (benchmark := records.read(paths.benchmark(NAME, name), Benchmark)).measured
    ]
    if untimed:
        sys.exit(
            "Not like with like, since dvc repro did not time all variants. Give more windows or"
            " items in another --folder:\n" + "\n".join(untimed)
        )


def page(recipe: Recipe, ledger: Ledger, given: argparse.Namespace) -> str:
    ours, theirs = total(ledger.quantgate), total(list(ledger.by_hand.values()))
    ratio = ours.wall_s / theirs.wall_s
    tasks, host = (
        ", ".join(f"{count} of {task}" for task, count in recipe.evaluate.tasks.items()),
        machine.describe(),
    )
    size = f"cut to {given.blocks} blocks" if given.blocks else "whole"
    plan = recipe.benchmark
    lines = [
        f"# {NAME} ({size}) and {len(recipe.variants)} variants: dvc repro, and by hand",
        "",
        (
            f"`{' '.join(['python -m benchmarks.by_hand', *sys.argv[1:]])}`,"
            f" {time.strftime('%Y-%m-%d')}. Items: {tasks}; windows:"
            f" {recipe.evaluate.perplexity.max_windows} of {recipe.evaluate.perplexity.window};"
            f" {plan.requests} requests {plan.repeats} times at"
            f" {' and '.join(map(str, plan.concurrency))} in flight."
        ),
        "",
        (
            f"Wall time: {ours.wall_s:.0f} s against {theirs.wall_s:.0f} s, ratio {ratio:.2f}; the"
            f" aim is {GOAL}: {'met' if ratio <= GOAL else 'MISSED'}. Processor time:"
            f" {ours.processor_s:.0f} s against {theirs.processor_s:.0f} s, ratio"
            f" {ours.processor_s / theirs.processor_s:.2f}."
        ),
        "",
        "| dvc repro | wall, s | CPU, s |",
        "|---|---|---|",
    ]
    stages = [
        records.read(path, StageCost) for path in sorted((paths.ARTIFACTS / "costs").glob("*.json"))
    ]
    lines += [
        f"| {stage.stage.replace(f'@{NAME}', '')} | {stage.wall_s:.0f} | {stage.processor_s:.0f} |"
        for stage in stages
    ]
    workers = total([Spent(wall_s=stage.wall_s, processor_s=stage.processor_s) for stage in stages])
    rest = f"{ours.wall_s - workers.wall_s:.0f} | {ours.processor_s - workers.processor_s:.0f}"
    lines += [
        f"| added items, benchmark, report, DVC itself | {rest} |",
        "",
        "| by hand | wall, s | CPU, s |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {part.wall_s:.0f} | {part.processor_s:.0f} |"
        for name, part in ledger.by_hand.items()
    ]
    lines += [
        "",
        (
            f"{host['cpu']}, {host['cores']} cores ({', '.join(host['instruction_sets'])}),"
            f" {host['system']}."
        ),
    ]
    return "\n".join(lines) + "\n"


def total(parts: list[Spent]) -> Spent:
    return Spent(
        wall_s=sum(part.wall_s for part in parts),
        processor_s=sum(part.processor_s for part in parts),
    )


def main(given: argparse.Namespace) -> None:
    source = project(given).resolve()
    out: Path = given.out.resolve()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with contextlib.chdir(given.folder):
        ledger = Path("spent.json")
        if not ledger.is_file():
            Ledger(quantgate=[], by_hand={}).write(ledger)
        quantgate(ledger)
        recipe = recipes.load(NAME)
        require_timed(recipe)
        Hand(recipe, Path.cwd(), source, ledger).run()
        found = page(recipe, records.read(ledger, Ledger), given)
    out.write_text(found)
    print(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("artifacts/by-hand"),
        help="the project; kept, to go on from",
    )
    parser.add_argument("--items", type=int, help="of each task, default the recipe's")
    parser.add_argument(
        "--windows", type=int, help="of the text, default the recipe's; at least 16"
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=list(VARIANTS),
        help="of these, with their baselines",
    )
    parser.add_argument(
        "--blocks",
        type=int,
        help="cut the model to its first blocks, to see whether all of it runs",
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/by_hand.md"))
    main(parser.parse_args())
