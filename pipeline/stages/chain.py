"""`quantgate run`: all stages of a recipe. DVC runs them and skips what did not change, as after
`dvc repro require@RECIPE`; beside that the recipe is refused before anything runs if it is
impossible, and each stage is announced with the time left."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from pipeline import paths
from pipeline.engines import host
from pipeline.errors import StageError
from pipeline.evidence import opened
from pipeline.planning import estimate, index, local, plan
from pipeline.planning.estimate import Counted
from pipeline.recipe import Recipe
from pipeline.records import StageCost, Workload, read
from pipeline.runtime import progress
from pipeline.stages import require

RUNS, SKIPS = (
    re.compile(r"Running stage '(\S+)':"),
    re.compile(r"Stage '(\S+)' didn't change, skipping"),
)
CACHED = re.compile(r"Stage '(\S+)' is cached - skipping run")
FIRST = ("pin", "calibrate", "reference", "trace")
LAST = ("benchmark", "report", "require")
WORKERS = ("pin@", "calibrate@", "reference@", "quantize@", "trace@")
LONG = (
    "pin@",
    "calibrate@",
    "reference@",
    "quantize@",
    "evaluate@",
    "climb@",
)  # the others are not planned, or take seconds
CLEARING_S = 5.0  # what a stage that is stopped has to clear away and end


def run(name: str, until: str) -> None:
    """Raises RecipeError and others for what is impossible, Rejected if not all passed, StageError
    if a stage failed."""
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # what service managers stop with: ends as Ctrl-C does
    from pipeline.report.terminal import show

    recipe = opened.unclimbed(name)
    index.write()
    local.refuse(recipe)
    if reason := plan.no_pass(recipe, recipe.evaluate.compared_at_most):
        print(f"note: {reason}", flush=True)
    for variant, why in host.lacking(recipe).items():
        print(f"note: {variant}: INCONCLUSIVE here: {why}", flush=True)
    stages = chain(recipe, until)
    announced = Announced(stages, seconds(recipe, stages))
    command = [
        str(Path(sys.executable).with_name("dvc")),
        "repro",
        "--keep-going",
        f"{until}@{name}",
    ]
    surroundings = {**os.environ, progress.IN_RUN: "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, errors="replace", env=surroundings
    ) as repro:
        assert repro.stdout is not None
        try:
            _announce(repro.stdout, announced)
        except KeyboardInterrupt:
            _stop(repro)
            raise
    if until == "require" and repro.returncode == 0:
        show(name, list(recipe.variants))
    if repro.returncode == 0:
        return
    if until == "require":
        require.run(name, None)  # says which did not pass, or what is missing, by its exit code
    raise StageError(
        f"dvc repro {until}@{name} ended with exit code {repro.returncode}. What it said stands"
        f" above, what the tools said is in {paths.LOGS}/."
    )


def _stop(repro: subprocess.Popen[str]) -> None:
    """DVC ignores SIGINT while a stage runs, takes the stage that was stopped for one that failed,
    and with --keep-going begins the others: it is ended first, then what runs below it."""
    below: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(repro.pid).children(recursive=True)
    repro.terminate()
    with contextlib.suppress(KeyboardInterrupt):  # pressed again: no reason to wait on
        psutil.wait_procs(below, timeout=CLEARING_S)
    for process in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(below, timeout=CLEARING_S)


def _announce(lines: Iterable[str], announced: Announced) -> None:
    for line in lines:
        if message := announced.of(line):
            print(message, flush=True)


def chain(recipe: Recipe, until: str) -> list[str]:
    """The stages that lead to one, by their names in DVC."""
    first = [f"{stage}@{recipe.name}" for stage in FIRST]
    if until in FIRST:
        return first[: FIRST.index(until) + 1]
    made = [
        f"{stage}@{recipe.name}--{variant}"
        for variant, of in recipe.variants.items()
        for stage in (("climb", "gate") if of.ladder else ("quantize", "evaluate", "gate"))
    ]
    return [*first, *made, *(f"{stage}@{recipe.name}" for stage in LAST[: LAST.index(until) + 1])]


class Announced:
    """Turns what DVC prints into lines that count the stages and tell the time left. `seconds`:
    what each will take."""

    def __init__(self, stages: list[str], seconds: dict[str, float]) -> None:
        self._left, self._count, self._seconds = list(stages), len(stages), seconds
        self._silent = False

    def of(self, line: str) -> str:
        """What to print for a line of DVC's; empty for what is said otherwise. What `require`
        prints, the last of all, `run` prints itself: in colours, and as wide as the terminal."""
        for pattern, what in (
            (RUNS, "runs"),
            (SKIPS, "did not change"),
            (CACHED, "is in DVC's cache"),
        ):
            if (match := pattern.match(line)) and match[1] in self._left:
                left = plan.duration(sum(self._seconds.get(stage, 0) for stage in self._left))
                self._left.remove(match[1])
                self._silent = match[1].startswith("require@")
                remaining = f"; about {left} left in all{_log(match[1])}" if pattern is RUNS else ""
                number = self._count - len(self._left)
                return f"[{number} of {self._count}] {match[1]} {what}{remaining}"
        hidden = self._silent or not line.strip() or line.startswith("> ")
        return "" if hidden else line.rstrip()


def _log(stage: str) -> str:
    """Where its tools write to; a stage without a tool, or with several, has no log of its name."""
    name = stage.replace("@", ".")
    if stage.startswith("evaluate@"):
        return f", log: {paths.log(f'{name}.job')}"
    return f", log: {paths.log(name)}" if stage.startswith(WORKERS) else ""


def seconds(recipe: Recipe, stages: list[str]) -> dict[str, float]:
    """What each stage took when it last ran here, else what is planned for it."""
    took = {
        stage: read(path, StageCost).wall_s
        for stage in stages
        if (path := paths.cost(stage)).is_file()
    }
    unknown = [stage for stage in stages if stage not in took and stage.startswith(LONG)]
    rows = list(_planned(recipe)) if unknown else []
    return {
        stage: took.get(stage, sum(seconds for of, seconds in rows if of == stage))
        for stage in stages
    }


def _planned(recipe: Recipe) -> Iterator[tuple[str, float]]:
    """For usual texts and tasks on a usual machine: to count and measure, as `plan` does, would be
    the longest wait of a short run. Of a ladder the rungs together, as if all were made."""
    shape = estimate.of(recipe)
    if shape is None:
        return
    items = {
        task: None if count == "all" else count for task, count in recipe.evaluate.items.items()
    }
    for row in estimate.stages(
        recipe, Counted(shape, Workload(windows={}, tasks={}), items, estimate.USUAL)
    ):
        kind, _, label = row.stage.partition(" ")
        variant = label.partition(",")[0]
        if variant and recipe.variants[variant].ladder and kind != "gate":
            kind = "climb"
        yield (
            (f"{kind}@{recipe.name}--{variant}" if variant else f"{kind}@{recipe.name}"),
            row.seconds,
        )
