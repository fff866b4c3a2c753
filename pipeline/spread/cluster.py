"""Ray's side of `quantgate spread`, in Ray's environment: a session that is given orders and tells
how they end.

Ray carries our package to the nodes and runs `carry_out` there. A job whose node or worker died is
tried again, elsewhere if there is an elsewhere. So is one whose node has too little disk or memory,
on each node that may have more. One that ends by itself otherwise is not."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import DiskFull, NoMemory, QuantgateError, SetupError, StageError
from pipeline.records import Needs, Order, Outcome
from pipeline.runtime import crash, environments

MOST_TRIES = 5
ANSWER_S = 5
LOCAL = "local"
HOW_TO_JOIN = "set RAY_AUTH_MODE=token where the cluster asks for one"
LEAST_OBJECTS_BYTES = 100_000_000  # Ray's own store, in which only orders and outcomes lie
NICENESS = "RAY_worker_niceness"  # 15 unless said otherwise: stages would yield to all else
SHARE = 0.001  # of a custom resource: it says what a node is for, and is not used up
NODE_ID = "ray.io/node-id"  # a label that Ray gives each node


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
        os.environ.setdefault(NICENESS, "0")
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


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


@dataclass
class Job:
    """`short`: the nodes that had too little disk or memory for it, Ray's ids and their names."""

    order: Order
    needs: Needs
    tries: int = 0
    short: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Of its latest try."""
        return f"{self.order.stage} {self.tries}"


class Jobs:
    """What was given to Ray and has not ended."""

    def __init__(self) -> None:
        self.running: dict[Any, Job] = {}
        self._refused: list[Outcome] = []
        self._board = ray.remote(Board).options(num_cpus=0, max_restarts=-1).remote()

    def submit(self, order: Order, needs: Needs) -> None:
        if (refused := self._begun(Job(order, needs))) is not None:
            self._refused.append(refused)

    def wait(self, seconds: float) -> list[Outcome]:
        """What ended until then, or a moment after the first did."""
        done = ray.wait(list(self.running), timeout=seconds)[0] if self.running else []
        ended = [outcome for ref in done if (outcome := self._ended(ref)) is not None]
        refused, self._refused = self._refused, []
        return [*ended, *refused]

    def where(self) -> dict[str, str]:
        """The node of each job that runs, by its stage; what waits is not there."""
        at = self._at()
        return {job.order.stage: at[job.key][1] for job in self.running.values() if job.key in at}

    def _at(self) -> dict[str, tuple[str, str]]:
        try:
            at: dict[str, tuple[str, str]] = ray.get(self._board.at.remote(), timeout=ANSWER_S)
        except ray.exceptions.RayError:  # its node died; it begins anew, and later jobs tell it
            return {}
        return at

    def _begun(self, job: Job) -> Outcome | None:
        """Hands a job to Ray; how it ended at once, where no node can run it."""
        job.tries += 1
        try:
            count, options = placed(_nodes(), job.needs, job.short)
        except StageError as error:
            return _failed(job, error)
        task = ray.remote(carry_out).options(
            num_cpus=count,
            num_gpus=job.needs.gpus,
            memory=job.needs.memory_bytes or None,
            resources=dict.fromkeys(job.needs.named, SHARE),
            max_retries=0,
            **options,
        )
        self.running[task.remote(job.order.dumps(), count, job.key, self._board)] = job
        return None

    def _ended(self, ref: Any) -> Outcome | None:
        """None for a job that is tried again."""
        job = self.running.pop(ref)
        try:
            outcome = Outcome.model_validate_json(ray.get(ref))
        except ray.exceptions.OutOfMemoryError as error:  # Ray ends a job before the kernel does
            outcome = _failed(job, NoMemory(_first_line(error)))
        except ray.exceptions.RayTaskError as error:  # in our own code, as when its node dies
            return self._after_loss(job, _last_line(error))
        except ray.exceptions.RayError as error:
            return self._after_loss(job, _first_line(error))
        return outcome if outcome.lacks is None else self._elsewhere(job, outcome)

    def _after_loss(self, job: Job, said: str) -> Outcome | None:
        lost = job.tries - len(job.short)
        if lost < MOST_TRIES:
            return self._begun(job)
        why = f"lost {lost} times, the last time: {said}"
        return _failed(job, StageError(why))

    def _elsewhere(self, job: Job, outcome: Outcome) -> Outcome | None:
        """Of a job that had too little room: None where another node is tried."""
        at = self._at().get(job.key)
        if at is None:  # the board died meanwhile: which node to avoid is not known
            return self._after_loss(job, str(outcome.error))
        before = ", ".join(job.short.values())
        job.short[at[0]] = at[1]
        if self._begun(job) is None:
            return None
        more = f" No node is left; before it, it was too much for {before}." if before else ""
        return outcome.model_copy(update={"node": at[1], "error": f"{outcome.error}{more}"})


def _failed(job: Job, why: QuantgateError) -> Outcome:
    """Of a job that no node carried out."""
    named = type(why)(f"{job.order.stage}: {why}")
    return Outcome.of(job.order.stage, "", named, 0)


class Board:
    """Where each try of a job runs, by Ray's id of the node and by its name: told by the job itself
    when it begins."""

    def __init__(self) -> None:
        self._at: dict[str, tuple[str, str]] = {}

    def begun(self, key: str, node_id: str, name: str) -> None:
        self._at[key] = node_id, name

    def at(self) -> dict[str, tuple[str, str]]:
        return self._at


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def placed(
    nodes: list[dict[str, Any]], needs: Needs, short: Collection[str]
) -> tuple[int, dict[str, Any]]:
    """The cores of a job, and what else Ray is told of its place: all cores of the smallest node
    that can run it, since engines use every core that they get; of one node for a job that wants it
    alone. None of those that were `short` of something. Raises StageError where no node has what it
    needs."""
    left = [node for node in nodes if node["NodeID"] not in short]
    able = [node for node in left if _can(node["Resources"], needs)]
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
    count = max(1, int(min(node["Resources"]["CPU"] for node in able)))
    return count, {"label_selector": {NODE_ID: f"!in({','.join(short)})"}} if short else {}


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
    # not waited for: Ray gives the cores of a job that waits for something of Ray's to another one
    board.begun.remote(key, ray.get_runtime_context().get_node_id(), node)
    os.environ["QUANTGATE_DEVICE"] = asked.device  # which says what environment vLLM's is
    error: QuantgateError
    try:
        for name in ("control", *asked.environments):
            environments.ensure(name)
        return _carried_out(asked, order, count)
    except QuantgateError as failed:
        error = failed
    except OSError as refused:
        error = crash.last(asked.stage, refused)
        if not isinstance(error, DiskFull | NoMemory):  # of a node that dies under it, for one
            raise
    return Outcome.of(asked.stage, node, error, wall_s=0).dumps()


def _carried_out(asked: Order, order: str, count: int) -> str:
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
