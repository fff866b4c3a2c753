"""`quantgate spread` on two nodes of one core each beside one such node, and while nodes die.

    python -m benchmarks.spread RECIPE [--data DATA] [--kills N] [--seed N] [--folder FOLDER]
    [--out FILE]

Nodes are raylets on this machine, each pinned to a core of its own, with folders of their own, and
each run begins with an empty store. Without `--kills`: the ratio of the wall times (the aim is
0.55), and the share of the nodes' time in which no job ran. With it: the second node is killed N
times at random moments and started again, then the head once; what is made is held against an
undisturbed run's, file by file. DATA is the folder that tests.real.prepare reads, for a recipe of
tests/real."""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline import records
from pipeline.engines.server import free_port
from pipeline.records import Result, Verdict
from pipeline.runtime import environments, machine
from pipeline.store.objects import VARIABLE
from tests.conftest import commit_all, make_project
from tests.real import prepare

AIM = 0.55
MEMORY_SHARE = 0.4  # of the machine's, for each node
OBJECTS_BYTES = 100_000_000
AWAY_S = 5.0  # a killed node
HEAD, SECOND = 0, 1  # also their cores


class Cluster:
    """Of one node or two; each is `ray start`, which ends when what it started does."""

    def __init__(self, nodes: int) -> None:
        self._folder = tempfile.mkdtemp(prefix="ray-")  # Unix sockets have short names
        self._address = f"127.0.0.1:{free_port()}"
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        for node in range(nodes):
            self.start(node)

    @property
    def address(self) -> str:
        return self._address

    def start(self, node: int) -> None:
        port = self._address.rpartition(":")[2]
        place = ["--head", "--port", port] if node == HEAD else ["--address", self._address]
        own = Path(self._folder, str(node))
        own.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):  # of its life before
            Path(own, "environments").symlink_to(environments.root())
        command = [
            *("taskset", "-c", str(node)),
            str(environments.python("ray").with_name("ray")),
            *("start", *place, "--temp-dir", str(own / "ray"), "--block", "--num-cpus", "1"),
            *("--resources", '{"openvino": 1}', "--disable-usage-stats"),
            *("--memory", str(int(MEMORY_SHARE * psutil.virtual_memory().total))),
            *("--object-store-memory", str(OBJECTS_BYTES)),
        ]
        said = Path(f"node-{node}.log")
        with said.open("wb") as log:
            process = subprocess.Popen(
                command,
                env={
                    **os.environ,
                    "QUANTGATE_ENVIRONMENTS": str(own / "environments"),
                    "RAY_worker_niceness": "0",
                },
                stdout=log,
                stderr=log,
            )
        self._processes[node] = process
        while not below(process, "raylet"):
            if process.poll() is not None:
                sys.exit(f"ray start ended with {process.returncode}: see {said}")
            time.sleep(0.5)
        time.sleep(AWAY_S)  # until it has told the head

    def kill(self, node: int) -> None:
        """Its raylet, with the head also what knows of the others."""
        names = ("raylet", "gcs_server") if node == HEAD else ("raylet",)
        process = self._processes.pop(node)
        for child in below(process, *names):
            child.kill()
        process.wait()

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def cluster(nodes: int) -> Iterator[Cluster]:
    running = Cluster(nodes)
    try:
        yield running
    finally:
        running.stop()


def below(process: subprocess.Popen[bytes], *names: str) -> list[psutil.Process]:
    """What a process has started that has one of these names."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended since it was listed
            if child.name() in names:
                found.append(child)
    return found


@dataclass(frozen=True)
class Run:
    """Of one store from empty to full. `results` by stage."""

    wall_s: float
    store: Path
    results: dict[str, Result]

    @property
    def work_s(self) -> float:
        """Of all stages, as long as each took where it ran."""
        return sum(result.wall_s for result in self.results.values())


def results(store: Path) -> dict[str, Result]:
    found = [records.read(path, Result) for path in (store / "results").glob("*.json")]
    return {result.stage: result for result in found}


def spreading(recipe: str, store: Path, address: str) -> subprocess.Popen[bytes]:
    program = str(Path(sys.executable).with_name("quantgate"))
    words = ["taskset", "-c", str(HEAD), program, "spread", recipe, "--ray", address]
    return subprocess.Popen(words, env={**os.environ, VARIABLE: str(store)})


def undisturbed(recipe: str, nodes: int) -> Run:
    store = emptied(f"store-{nodes}")
    with cluster(nodes) as running:
        start = time.monotonic()
        if spreading(recipe, store, running.address).wait():
            sys.exit("spread failed: what it said stands above")
        return Run(time.monotonic() - start, store, results(store))


def disturbed(recipe: str, kills: int, seed: int, about_s: float) -> tuple[Run, list[float]]:
    """And the moments of the kills, in seconds from its beginning; the last is the head's."""
    drawn, moments = random.Random(seed), list[float]()
    store, start = emptied("store-killed"), time.monotonic()
    with cluster(2) as running:
        process = spreading(recipe, store, running.address)
        for _ in range(kills):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(drawn.uniform(0, about_s / (kills + 1)))
                sys.exit(f"it ended after {len(moments)} kills: {process.returncode}")
            moments.append(time.monotonic() - start)
            running.kill(SECOND)
            time.sleep(AWAY_S)
            running.start(SECOND)
        moments.append(time.monotonic() - start)
        running.kill(HEAD)
        if process.wait() == 0:
            sys.exit("without its head it ended well")
    with cluster(2) as running:
        if spreading(recipe, store, running.address).wait():
            sys.exit("spread failed: what it said stands above")
    return Run(time.monotonic() - start, store, results(store)), moments


def emptied(name: str) -> Path:
    store = Path(name).absolute()
    shutil.rmtree(store, ignore_errors=True)
    return store


@dataclass(frozen=True)
class Differences:
    """Of two runs' files: how many are the same to the byte; which are not, by path; and whether
    every variant has the same verdict."""

    same: int
    other: list[str]
    same_verdicts: bool


def differences(one: Run, other: Run) -> Differences:
    first, second = (
        {file.path: file.sha256 for result in run.results.values() for file in result.files}
        for run in (one, other)
    )
    paths = sorted({*first, *second})
    differ = [path for path in paths if first.get(path) != second.get(path)]
    return Differences(len(paths) - len(differ), differ, verdicts(one) == verdicts(other))


def verdicts(run: Run) -> dict[str, str]:
    """By variant."""
    gated = [result for stage, result in run.results.items() if stage.startswith("gate@")]
    files = [file for result in gated for file in result.files if "/verdicts/" in file.path]
    return {
        Path(file.path).stem: records.read(
            run.store / "objects" / file.sha256[:2] / file.sha256, Verdict
        ).status
        for file in files
    }


def of_ratio(one: Run, two: Run) -> list[str]:
    ratio = two.wall_s / one.wall_s
    lines = [
        "| nodes | wall, s | stages' time, s | nodes' time in which none ran |",
        "|---|---|---|---|",
    ]
    for nodes, run in ((1, one), (2, two)):
        idle = 1 - run.work_s / (nodes * run.wall_s)
        lines.append(f"| {nodes} | {run.wall_s:.0f} | {run.work_s:.0f} | {idle:.0%} |")
    met = "met" if ratio <= AIM else "MISSED"
    return [*lines, "", f"Ratio {ratio:.2f}; the aim is {AIM}: {met}."]


def of_kills(calm: Run, killed: Run, moments: list[float]) -> list[str]:
    found = differences(calm, killed)
    kinds = sorted({Path(path).parts[1] for path in found.other if path.endswith(".json")})
    wrong = [path for path in found.other if not path.endswith(".json")]
    *second, head = (f"{moment:.0f}" for moment in moments)
    return [
        f"The second node was killed after {', '.join(second)} s, the head after {head} s; then"
        f" `spread` was called again. {killed.wall_s:.0f} s in all, {calm.wall_s:.0f} s"
        " undisturbed.",
        "",
        f"{len(killed.results)} results. {found.same} files are the same to the byte;"
        f" {len(found.other) - len(wrong)} records are not, which hold times: {', '.join(kinds)}."
        f" Other files that differ: {', '.join(wrong) or 'none'}. Verdicts:"
        f" {'the same' if found.same_verdicts else 'OTHERS'}.",
    ]


def prepared(recipe: str, data: Path | None, folder: Path) -> None:
    if (folder / "dvc.yaml").is_file():
        return
    make_project(folder)
    if data is not None:
        prepare.main(recipe, data, folder)
    with contextlib.chdir(folder):
        subprocess.run([str(Path(sys.executable).with_name("quantgate")), "index"], check=True)
        commit_all()


def main(given: argparse.Namespace) -> None:
    out: Path = given.out.resolve()
    prepared(given.recipe, given.data, given.folder)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with contextlib.chdir(given.folder):
        two = undisturbed(given.recipe, 2)
        if given.kills:
            killed, moments = disturbed(given.recipe, given.kills, given.seed, two.wall_s)
            found = of_kills(two, killed, moments)
        else:
            found = of_ratio(undisturbed(given.recipe, 1), two)
    host = machine.describe()
    title = f"# {given.recipe} spread over two nodes of one core each on one machine"
    command = f"`{' '.join(['python -m benchmarks.spread', *sys.argv[1:]])}`"
    about = f"{host['cpu']}, {host['cores']} cores, {host['system']}."
    dated = f"{command}, {time.strftime('%Y-%m-%d')}."
    text = "\n".join([title, "", dated, "", *found, "", about, ""])
    out.write_text(text)
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("artifacts/spread"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/spread.md"))
    main(parser.parse_args())
