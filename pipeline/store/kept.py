"""What the command of a stage does where there is a store: the result is looked for before the work
begins, and put there after it."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipeline import paths, records
from pipeline.errors import QuantgateError
from pipeline.records import Machine, Result, StageCost
from pipeline.runtime import machine
from pipeline.store import inputs, results
from pipeline.store.graph import Stage
from pipeline.store.inputs import Inputs
from pipeline.store.objects import VARIABLE
from pipeline.store.results import Store

ANY_MACHINE = "QUANTGATE_ANY_MACHINE"
HERE = ("pin", "report", "require")  # verbs that read this project's files, or decide: never stored
FORCED = "QUANTGATE_FORCED"  # set below `dvc repro --force`, which asks for the work itself


def configured() -> Store | None:
    """The store that the environment names: a folder, as seen from the project's, or a URL. None
    where it names none. Raises RegistryError for a URL that cannot be opened."""
    url = os.environ.get(VARIABLE, "").strip()
    return Store(url if "://" in url else str(Path(url).absolute())) if url else None


def run(name: str, work: Callable[[], None]) -> None:
    """Puts the stage's stored result into place, or does the work and stores what it made. Without
    a store it does the work. Raises what the work does, and Tampered and RegistryError as the store
    does before the work; that a result cannot be put there afterwards is only said."""
    store = configured()
    if store is None:
        work()
        return
    asked = inputs.here(name)
    if asked.key is not None and _taken(store, asked.stage, asked.key):
        return
    start, started_at = time.monotonic(), time.time()
    work()
    _keep(store, asked, time.monotonic() - start, started_at)


def _taken(store: Store, stage: Stage, key: str) -> bool:
    if FORCED in os.environ:
        return False
    result = store.find(key)
    if result is None or not _holds_here(result):
        return False
    start = time.monotonic()
    store.take(result, stage)
    size = sum(file.size_bytes for file in result.files)
    print(
        f"{stage.name}: taken from the store in {time.monotonic() - start:.0f} s:"
        f" {len(result.files)} files, {size / 1e6:.1f} MB, every hash holds; made on"
        f" {words(result.machine)} in {result.wall_s:.0f} s"
    )
    return True


def _holds_here(result: Result) -> bool:
    """A speed, or what a machine could not do, is no other machine's, unless the user says so."""
    if not result.machine_bound or result.machine == this() or os.environ.get(ANY_MACHINE) == "1":
        return True
    print(
        f"note: {result.stage}: the store has it of {words(result.machine)}, and it holds for that"
        f" machine alone: it is made here. To take it nonetheless: {ANY_MACHINE}=1"
    )
    return False


def _keep(store: Store, asked: Inputs, wall_s: float, started_at: float) -> None:
    stage = asked.stage
    if asked.key is None or (changed := asked.changed()):
        what = f"{changed[0]} was written to meanwhile" if asked.key else "an input was not there"
        print(f"note: {stage.name}: not put into the store: {what}", file=sys.stderr)
        return
    result = Result(
        stage=stage.name,
        key=asked.key,
        machine=this(),
        machine_bound=_machine_bound(stage),
        wall_s=wall_s,
        cost=_cost(stage.name, started_at),
        outs=results.outs(stage),
    )
    try:
        store.put(result)
    except QuantgateError as error:  # the work is done, and stands here whole
        print(f"note: {stage.name}: not put into the store: {error}", file=sys.stderr)


def _machine_bound(stage: Stage) -> bool:
    """A benchmark; and an evaluation that this machine could not make, or in which the engine died,
    maybe for lack of something."""
    if stage.verb == "benchmark":
        return True
    if stage.verb not in ("evaluate", "climb"):
        return False
    recipe, _, variant = stage.name.partition("@")[2].partition("--")
    measured = records.read(paths.evaluation(recipe, variant), records.Evaluation)
    return measured.failure is not None or measured.lacking is not None


def _cost(stage: str, started_at: float) -> StageCost | None:
    """What the stage's worker took, where it wrote that down in this run."""
    path = paths.cost(stage)
    if not path.is_file() or path.stat().st_mtime < started_at:
        return None
    return records.read(path, StageCost)


def this() -> Machine:
    """The machine that this runs on."""
    about = machine.describe()
    return Machine(
        name=platform.node(),
        cpu=about["cpu"],
        cores=about["cores"],
        memory_bytes=about["memory_bytes"],
    )


def words(of: Machine) -> str:
    return f"{of.name} ({of.cpu}, {of.cores} cores, {of.memory_bytes / 1e9:.0f} GB)"
