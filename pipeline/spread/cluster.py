"""Ray's side of `quantgate spread`, in Ray's environment: a session that is given orders and tells
how they end.

Ray carries our package to the nodes and runs `carry_out` there. A job whose node or worker died is
tried again, elsewhere if there is an elsewhere; one that ends by itself is not."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import SetupError, StageError
from pipeline.records import Needs, Order, Outcome
from pipeline.runtime import environments

MOST_TRIES = 5
ANSWER_S = 5
LOCAL = "local"
HOW_TO_JOIN = "set RAY_AUTH_MODE=token where the cluster asks for one"
LEAST_OBJECTS_BYTES = 100_000_000  # Ray's own store, in which only orders and outcomes lie
SHARE = 0.001  # of a custom resource: it says what a node is for, and is not used up
LOST = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.RaySystemError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.TaskUnschedulableError,
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfDiskError,
)


def converse(job: dict[str, Any], questions: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Answers first with the cluster, then each question {"submit": [{order, needs}], "wait_s"}
    with how jobs ended and where others run, and last that the cluster is left. Raises SetupError
    for a cluster that cannot be reached."""
    about = _started(job["address"], job["code"])
    try:
        yield {"dashboard": about.dashboard_url or "", "nodes": len(_nodes())}
        jobs = Jobs()
        for asked in questions:
            for given in asked["submit"]:
                jobs.submit(
                    Order.model_validate(given["order"]), Needs.model_validate(given["needs"])
                )
            ended = jobs.wait(asked["wait_s"])
            yield {
                "ended": [outcome.model_dump() for outcome in ended],
                "where": jobs.where(),
            }
    finally:
        ray.shutdown()
    yield {}


def _started(address: str, code: str) -> Any:
    options: dict[str, Any] = {
        "runtime_env": {"working_dir": code},
        "log_to_driver": False,
        "logging_level": "ERROR",
    }
    if address == LOCAL:
        options |= {
            "address": LOCAL,
            "num_cpus": len(os.sched_getaffinity(0)),
            "resources": {"openvino": 1, "cuda": 1},
            "object_store_memory": LEAST_OBJECTS_BYTES,
        }
    else:
        options["address"] = address
    try:
        return ray.init(**options)
    except Exception as error:  # Ray raises a bare one for a node that did not start in time
        remedy = (
            "Run again when the machine is less busy"
            if address == LOCAL
            else f"See: ray status --address {address}, and {HOW_TO_JOIN}"
        )
        raise SetupError(
            f"--ray {address}: no Ray cluster answers: {_first_line(error).rstrip('.')}. {remedy}."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@dataclass
class Job:
    order: Order
    needs: Needs
    tries: int = 0


class Jobs:
    """What was given to Ray and has not ended."""

    def __init__(self) -> None:
        self.running: dict[Any, Job] = {}
        self._refused: list[Outcome] = []
        self._board = ray.remote(Board).options(num_cpus=0, max_restarts=-1).remote()

    def submit(self, order: Order, needs: Needs) -> None:
        self._begin(Job(order, needs))

    def wait(self, seconds: float) -> list[Outcome]:
        """What ended until then, or a moment after the first did."""
        done = ray.wait(list(self.running), timeout=seconds)[0] if self.running else []
        ended = [outcome for ref in done if (outcome := self._ended(ref)) is not None]
        refused, self._refused = self._refused, []
        return [*ended, *refused]

    def where(self) -> dict[str, str]:
        """The node of each job that runs, by its stage; what waits is not there."""
        try:
            at: dict[str, str] = ray.get(self._board.at.remote(), timeout=ANSWER_S)
        except ray.exceptions.RayError:  # its node died; it begins anew, and later jobs tell it
            return {}
        return {
            job.order.stage: at[key]
            for job in self.running.values()
            if (key := f"{job.order.stage} {job.tries}") in at
        }

    def _begin(self, job: Job) -> None:
        job.tries += 1
        try:
            count, options = _placed(job.needs)
        except StageError as error:
            self._refused.append(_failed(job, str(error)))
            return
        task = ray.remote(carry_out).options(
            num_cpus=count,
            num_gpus=job.needs.gpus,
            memory=job.needs.memory_bytes or None,
            resources=dict.fromkeys(job.needs.named, SHARE),
            max_retries=0,
            **options,
        )
        key = f"{job.order.stage} {job.tries}"
        self.running[task.remote(job.order.dumps(), count, key, self._board)] = job

    def _ended(self, ref: Any) -> Outcome | None:
        """None for a job that is tried again."""
        job = self.running.pop(ref)
        try:
            return Outcome.model_validate_json(ray.get(ref))
        except LOST as error:
            if job.tries < MOST_TRIES:
                self._begin(job)
                return None
            return _failed(job, f"lost {job.tries} times, the last time: {_first_line(error)}")
        except ray.exceptions.RayError as error:
            return _failed(job, _first_line(error))


def _failed(job: Job, why: str) -> Outcome:
    """Of a job that no node carried out."""
    return Outcome(stage=job.order.stage, node="", error=f"{job.order.stage}: {why}", wall_s=0)


class Board:
    """Where each try of a job runs: told by the job itself when it begins."""

    def __init__(self) -> None:
        self._at: dict[str, str] = {}

    def begun(self, key: str, node: str) -> None:
        self._at[key] = node

    def at(self) -> dict[str, str]:
        return self._at


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _placed(needs: Needs) -> tuple[int, dict[str, Any]]:
    """The cores of a job: all of the smallest node that can run it, since engines use every core
    that they get; of one node for a job that wants it alone. Raises StageError where no node has
    what it needs."""
    able = [node for node in _nodes() if _can(node["Resources"], needs)]
    if not able:
        asked = [*needs.named, *(["a GPU"] if needs.gpus else [])]
        raise StageError(
            f"no node of the cluster has {needs.memory_bytes / 1e9:.1f} GB of memory"
            f"{''.join(f' and {name}' for name in asked)}. A node says what it is for as it starts:"
            " ray start --resources '{\"openvino\": 1}'"
        )
    if needs.exclusive:
        node = max(able, key=lambda node: node["Resources"]["CPU"])
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        return int(node["Resources"]["CPU"]), {"scheduling_strategy": strategy}
    return max(1, int(min(node["Resources"]["CPU"] for node in able))), {}


def _can(has: dict[str, float], needs: Needs) -> bool:
    return (
        has.get("memory", 0) >= needs.memory_bytes
        and has.get("GPU", 0) >= needs.gpus
        and all(has.get(name, 0) >= SHARE for name in needs.named)
    )


def carry_out(order: str, count: int, key: str, board: Any) -> str:
    """On the node, in a worker of Ray's: makes the environments that the job needs, then runs it in
    the control environment. Returns its outcome."""
    asked, node = Order.model_validate_json(order), socket.gethostname()
    board.begun.remote(key, node)
    os.environ["QUANTGATE_DEVICE"] = asked.device  # which says what environment vLLM's is
    try:
        for name in ("control", *asked.environments):
            environments.ensure(name)
    except SetupError as error:
        return Outcome(stage=asked.stage, node=node, error=str(error), wall_s=0).dumps()
    with tempfile.TemporaryDirectory() as folder:
        given, outcome = Path(folder, "order.json"), Path(folder, "outcome.json")
        given.write_text(order)
        program = [str(environments.python("control")), "-m", "pipeline.spread.node"]
        done = subprocess.run(
            [*program, str(given), str(outcome), str(count), str(os.getpid())],
            cwd=Path(__file__).parents[2],
            env=_plain(),
            check=False,
        )
        if outcome.is_file():
            return outcome.read_text()
    raise ray.exceptions.WorkerCrashedError(f"{asked.stage}: exit code {done.returncode}")


def _plain() -> dict[str, str]:
    """The node's variables without what Ray set for its own worker."""
    rays = ("PYTHONPATH", "OMP_NUM_THREADS")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RAY_") and name not in rays
    }
    return {**kept, **environments.UNTRACKED}
