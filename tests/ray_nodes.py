"""Several Ray nodes on this machine, and jobs whose stages only wait, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.records import Machine, Needs, Order, Outcome, Result, Revision, artifact
from pipeline.runtime import environments
from pipeline.runtime.process import Session
from pipeline.store.results import Store

CLI = """
import json, os, pathlib, signal, sys, time

NODE = pathlib.Path(os.environ.get("QUANTGATE_ENVIRONMENTS", "here/x")).parent.name

def tell(note, what):
    with open(note, "a") as file:
        file.write(json.dumps([os.getpid(), NODE, what, time.time()]) + "\\n")

def main():
    verb, note, seconds = sys.argv[1:]
    tell(note, "begun")
    time.sleep(float(seconds))
    tell(note, "ended")
    if verb == "fail":
        print("quantgate: it cannot be", file=sys.stderr)
        return 2
    if verb == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return 0
"""
FILES = {"dvc.yaml": "stages: {}\n", "pipeline/__init__.py": "", "pipeline/cli.py": CLI}
SERVE = """
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster()
for settings in json.loads(sys.argv[1]):
    cluster.add_node(**settings)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""

Job = dict[str, Any]


@dataclass
class Try:
    """Of a job, as its stage noted it: on which node, and from when until when."""

    pid: int
    node: str
    begun: float = 0
    ended: float = math.inf


@dataclass(frozen=True)
class Waiting:
    """Makes jobs of stages that wait and note it in `folder`, whose results its store has."""

    folder: Path

    def job(self, stage: str, verb: str = "wait", seconds: float = 0, **needs: Any) -> Job:
        store = Store(str(self.folder / "store"))
        for name, text in FILES.items():
            path = self.folder / "stub" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        files = [artifact.hash_file(self.folder / "stub" / name, name) for name in FILES]
        for file in files:
            store.objects.keep(file, self.folder / "stub" / file.path)
        key = hashlib.sha256(stage.encode()).hexdigest()
        machine = Machine(name="n", cpu="c", cores=1, memory_bytes=1)
        about = {"machine": machine, "machine_bound": False, "wall_s": 1, "cost": None, "outs": []}
        store.put(Result(stage=stage, key=key, **about))  # type: ignore[arg-type]
        order = Order(
            stage=stage,
            command=f"quantgate {verb} {self.folder / stage} {seconds}",
            key=key,
            store=str(self.folder / "store"),
            files=files,
            revision=Revision(commit=None, changed=[]),
            environments=[],
            device="cpu",
        )
        asked: dict[str, Any] = {
            "memory_bytes": 0,
            "gpus": 0,
            "named": [],
            "exclusive": False,
        } | needs
        return {"order": order.model_dump(), "needs": Needs(**asked).model_dump()}

    def tries(self, stage: str) -> list[Try]:
        note, found = self.folder / stage, dict[int, Try]()
        for line in note.read_text().splitlines() if note.is_file() else []:
            pid, node, what, when = json.loads(line)
            setattr(found.setdefault(pid, Try(pid, node)), what, when)
        return list(found.values())


@contextlib.contextmanager
def nodes(folder: Path, cores: list[int]) -> Iterator[str]:
    """The address of a cluster of nodes n0, n1, ... with so many cores, which have folders of their
    own for their working copies and locks (`folder`/n0/spread)."""
    short = tempfile.mkdtemp(prefix="q")  # the names of sockets may have 107 characters
    Path(short, "ray").mkdir()  # where Ray notes the last cluster
    settings = []
    for number, count in enumerate(cores):
        own = folder / f"n{number}" / "environments"
        own.parent.mkdir(parents=True, exist_ok=True)
        own.symlink_to(environments.root())
        settings.append(
            {
                "num_cpus": count,
                "env_vars": {"QUANTGATE_ENVIRONMENTS": str(own)},
                "temp_dir": f"{short}/{number}",  # nodes of one folder would unpack our package
                "include_dashboard": False,  # into one place, and read what is half there
            }
        )
    with subprocess.Popen(
        [str(environments.python("ray")), "-c", SERVE, json.dumps(settings)],
        env={
            **os.environ,
            **environments.UNTRACKED,
            "RAY_TMPDIR": short,
            "RAY_worker_niceness": "0",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as cluster:
        assert cluster.stdin is not None and cluster.stdout is not None
        try:
            yield cluster.stdout.readline().strip()
        finally:
            cluster.stdin.close()
            cluster.wait()
            shutil.rmtree(short, ignore_errors=True)


def asked(session: Session, jobs: list[Job]) -> dict[str, Outcome]:
    """Hands over jobs; the outcomes of those that ended in the next moment."""
    answer = session.ask({"submit": jobs, "wait_s": 0.5})
    return {one["stage"]: Outcome.model_validate(one) for one in answer["ended"]}


def ended(session: Session, jobs: list[Job], count: int) -> dict[str, Outcome]:
    """The outcomes of so many jobs."""
    outcomes = asked(session, jobs)
    while len(outcomes) < count:
        outcomes |= asked(session, [])
    return outcomes
