"""`quantgate spread`: what the store lacks of a recipe goes out to a cluster, in its order."""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import SetupError, StageError
from pipeline.evidence import opened
from pipeline.planning import index, local
from pipeline.records import Outcome, artifact
from pipeline.runtime import environments, process
from pipeline.spread import shown
from pipeline.spread.missing import Missing
from pipeline.spread.orders import Orders
from pipeline.spread.shown import DONE, FAILED, RUNS, Shown
from pipeline.stages import chain
from pipeline.store import graph, inputs, kept
from pipeline.store.graph import Stage
from pipeline.store.objects import VARIABLE

LOOK_S = 0.8  # less than what makes a session show its log's last line


def spread(name: str, ray: str, as_json: bool) -> None:
    """Raises RecipeError and others for what is impossible, SetupError without a store or a
    cluster, StageError if a stage failed."""
    environments.python("ray")
    store = kept.configured()
    if store is None:
        raise SetupError(
            f"{VARIABLE}: not set, and results must lie where every node reaches them. Give a"
            " folder that all share, or a URL such as s3://BUCKET/PREFIX."
        )
    if store.objects.holds_secret:
        raise SetupError(
            f"{VARIABLE}: {store.objects.url} has a user or a query in it, and no secret is sent to"
            " other machines. Leave it out of the URL, and give each node its credentials by what"
            " the store's client reads."
        )
    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        recipe = opened.unclimbed(name)
        index.check(name)
        local.refuse(recipe)
        _pin(name)
    with graph.opened() as project:
        stages = {one.name: one for one in project.stages(name) if one.verb not in kept.HERE}
        on_disk = functools.cache(inputs.on_disk(project))
        orders = Orders(recipe, list(stages.values()), on_disk, store.objects.url)
        missing = Missing(stages.values(), store, on_disk)
        orders.send_project(store)
        missing.ready(())
        took = chain.seconds(recipe, missing.left)
        failed = Spreading(stages, missing, orders, took).run(ray, as_json) if missing.left else {}
    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        _end(name, failed, missing)


def _pin(name: str) -> None:
    """Which files the model is is said here, and no node is believed it."""
    command = [str(Path(sys.executable).with_name("dvc")), "repro", f"pin@{name}"]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise StageError(f"pin@{name} failed: what it said stands above.")


def _end(name: str, failed: dict[str, str], missing: Missing) -> None:
    if not failed:
        elsewhere = [
            result
            for result in missing.done.values()
            if result.machine_bound and result.machine != kept.this()
        ]
        for result in elsewhere:
            print(f"note: {result.stage} holds for {kept.words(result.machine)}, and is taken so")
        taking = f"{kept.ANY_MACHINE}=1 " if elsewhere else ""
        count = len(missing.done)
        print(f"all {count} results are in the store. Run: {taking}dvc repro require@{name}")
        return
    waiting = [stage for stage in missing.left if stage not in failed]
    behind = f"\nnot run, since they depend on these: {', '.join(waiting)}" if waiting else ""
    lines = "\n".join(failed.values())
    raise StageError(f"{len(failed)} of {name}'s stages failed:\n{lines}{behind}")


class Spreading:
    """The loop over a cluster."""

    def __init__(
        self, stages: dict[str, Stage], missing: Missing, orders: Orders, took: dict[str, float]
    ) -> None:
        self._stages, self._missing, self._orders, self._took = stages, missing, orders, took
        self._begun: dict[str, str] = {}  # stages that were sent out, with their keys
        self._whole: set[str] = set()
        self._failed: dict[str, str] = {}

    def run(self, ray: str, as_json: bool) -> dict[str, str]:
        """The line of each stage that failed."""
        table, standing = shown.shown(list(self._stages), as_json)
        for name in self._missing.done:
            table.set(name, DONE, note="in the store")
        with standing, _session(ray) as session:
            about = session.ask()
            table.started(about["dashboard"], about["nodes"])
            submit = self._ready()
            while submit or self._running():
                answer = session.ask({"submit": submit, "wait_s": LOOK_S})
                submit = self._again(answer["ended"], table) + self._ready()
                for name, node in answer["where"].items():
                    if name in self._running():
                        table.set(name, RUNS, node)
                table.left(self._left_s(about["nodes"]))
        return self._failed

    def _running(self) -> list[str]:
        return [name for name in self._begun if name not in self._missing.done | self._failed]

    def _ready(self) -> list[dict[str, Any]]:
        ready = self._missing.ready([*self._begun, *self._failed])
        self._begun |= ready
        return [self._job(name) for name in ready]

    def _job(self, name: str) -> dict[str, Any]:
        stage = self._stages[name]
        order = self._orders.of(stage, self._begun[name], self._missing, name in self._whole)
        needs = self._orders.needs(stage)
        return {"order": order.model_dump(), "needs": needs.model_dump()}

    def _again(self, ended: list[dict[str, Any]], table: Shown) -> list[dict[str, Any]]:
        """Notes how jobs ended. A gate that lacks the artifact, to draw more items, gets it."""
        jobs = []
        for outcome in map(Outcome.model_validate, ended):
            name = outcome.stage
            if outcome.error is None and self._missing.finish(name, self._begun[name]):
                table.set(name, DONE, outcome.node, f"{outcome.wall_s:.0f} s")
            elif self._wants_whole(name) and outcome.lacks is None:
                self._whole.add(name)
                jobs.append(self._job(name))
            else:
                at = f" (on {outcome.node})" if outcome.node else ""
                error = outcome.error or f"{name}: its result is not in the store"
                self._failed[name] = f"{error}{at}"
                table.set(name, FAILED, outcome.node, error)
        return jobs

    def _wants_whole(self, name: str) -> bool:
        return self._stages[name].verb == "gate" and name not in self._whole

    def _left_s(self, nodes: int) -> float:
        left = [self._took.get(name, 0) for name in self._missing.left if name not in self._failed]
        return max(sum(left) / max(nodes, 1), *left, 0) if left else 0


@contextlib.contextmanager
def _session(ray: str) -> Iterator[process.Session]:
    """Ray's side, with the code that it carries to the nodes; a cluster of its own ends with it."""
    with artifact.stage_folder("spread") as folder:
        code = folder / "code"
        for name in ("pipeline", "environments"):
            shutil.copytree(name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
        job = {"address": ray, "code": str(code.absolute())}
        session = process.Session("ray", "spread", job, folder / "job.json", offline=False)
        try:
            yield session
            session.finish()
        finally:
            session.close()
