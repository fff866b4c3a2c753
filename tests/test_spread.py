"""`quantgate spread` without a cluster: which stages are ready, what a job is sent and needs, and
how a node runs it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import recipe
from pipeline.errors import DiskFull, NoMemory, RecipeError, SetupError, StageError
from pipeline.evidence import provenance
from pipeline.records import File, Machine, Needs, Order, Out, Outcome, Result, Revision
from pipeline.runtime import environments
from pipeline.spread import command, cores, node, shown
from pipeline.spread.command import Spreading
from pipeline.spread.missing import Missing
from pipeline.spread.orders import Orders
from pipeline.store import graph, inputs, kept, objects
from pipeline.store.graph import Made, Stage
from pipeline.store.results import Store
from tests.conftest import ROOT

MACHINE = Machine(name="node", cpu="a cpu", cores=1, memory_bytes=1)
SOURCE = File(path="source.txt", size_bytes=1, sha256="5" * 64)


def stage(name: str, deps: list[str], outs: list[str]) -> Stage:
    return Stage(name, f"quantgate {name}", {}, tuple(deps), tuple(Made(out, True) for out in outs))


CALIBRATE = stage("calibrate@r", ["source.txt"], ["artifacts/calibration/r"])
ONE = stage(
    "quantize@r--one",
    ["artifacts/calibration/r/samples.json"],
    ["artifacts/models/r/one", "artifacts/manifests/r/one.json"],
)
TWO = stage(
    "quantize@r--two",
    ["artifacts/calibration/r/samples.json"],
    ["artifacts/models/r/two", "artifacts/manifests/r/two.json"],
)
GATE = stage("gate@r--one", ["artifacts/manifests/r/one.json"], ["artifacts/gates/r/one.txt"])
BENCHMARK = stage(
    "benchmark@r", ["artifacts/manifests/r", "artifacts/gates/r"], ["artifacts/timings/r"]
)
STAGES = [CALIBRATE, ONE, TWO, GATE, BENCHMARK]
FOLDERS = {"artifacts/calibration/r": "samples.json", "artifacts/timings/r": "one.json"} | {
    f"artifacts/models/r/{name}": "w.bin" for name in ("one", "two")
}


def result(of: Stage, key: str) -> Result:
    """What a stage makes, with a content that hangs on its key."""
    outs = []
    for path in (made.path for made in of.outs):
        name = f"{path}/{FOLDERS[path]}" if path in FOLDERS else path
        file = File(
            path=name, size_bytes=1, sha256=hashlib.sha256(f"{key}{name}".encode()).hexdigest()
        )
        outs.append(Out(path=path, is_folder=path in FOLDERS, files=[file]))
    return Result(
        stage=of.name, key=key, machine=MACHINE, machine_bound=False, wall_s=1, cost=None, outs=outs
    )


class Shelf:
    """A store that remembers."""

    def __init__(self) -> None:
        self.results: dict[str, Result] = {}

    def find(self, key: str) -> Result | None:
        return self.results.get(key)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def missing(shelf: Shelf) -> Missing:
    return Missing(STAGES, shelf, lambda path: [SOURCE] if path == SOURCE.path else [])  # type: ignore[arg-type]


def make(missing: Missing, shelf: Shelf, of: Stage) -> None:
    key = missing.ready(())[of.name]
    shelf.results[key] = result(of, key)
    assert missing.finish(of.name, key)


def test_a_stage_is_ready_when_all_before_it_are_done(missing: Missing, shelf: Shelf) -> None:
    assert list(missing.ready(())) == ["calibrate@r"]
    assert missing.ready(["calibrate@r"]) == {}
    make(missing, shelf, CALIBRATE)
    assert list(missing.ready(())) == ["quantize@r--one", "quantize@r--two"]
    make(missing, shelf, ONE)
    assert list(missing.ready(())) == ["quantize@r--two", "gate@r--one"]
    make(missing, shelf, GATE)
    assert list(missing.ready(())) == ["quantize@r--two"]  # the benchmark waits for all manifests
    make(missing, shelf, TWO)
    assert list(missing.ready(())) == ["benchmark@r"]
    make(missing, shelf, BENCHMARK)
    assert missing.left == []


def test_what_the_store_has_is_not_run(missing: Missing, shelf: Shelf) -> None:
    for of in STAGES:
        make(missing, shelf, of)
    again = Missing(STAGES, shelf, lambda path: [SOURCE] if path == SOURCE.path else [])  # type: ignore[arg-type]
    assert again.ready(()) == {} and again.left == []


def test_another_source_makes_all_others_missing(missing: Missing, shelf: Shelf) -> None:
    for of in STAGES:
        make(missing, shelf, of)
    other = SOURCE.model_copy(update={"sha256": "6" * 64})
    again = Missing(STAGES, shelf, lambda path: [other] if path == SOURCE.path else [])  # type: ignore[arg-type]
    assert list(again.ready(())) == ["calibrate@r"]


def test_a_job_gets_records_of_all_before_it_and_weights_only_where_asked(
    missing: Missing, shelf: Shelf
) -> None:
    for of in (CALIBRATE, ONE):
        make(missing, shelf, of)
    few = {file.path for file in missing.files("gate@r--one", whole=False)}
    assert few == {"artifacts/manifests/r/one.json", "artifacts/calibration/r/samples.json"}
    all_of_them = {file.path for file in missing.files("gate@r--one", whole=True)}
    assert all_of_them - few == {"artifacts/models/r/one/w.bin"}


class Cluster:
    """A session that carries out what it is asked at once; `fails` have an error."""

    def __init__(self, shelf: Shelf, fails: Callable[[dict[str, Any]], bool]) -> None:
        self._shelf, self._fails = shelf, fails
        self.ran: list[str] = []

    def ask(self, question: dict[str, Any] | None = None) -> dict[str, Any]:
        if question is None:
            return {"nodes": 2, "dashboard": "127.0.0.1:8265"}
        ended = []
        for job in question["submit"]:
            name, key = job["order"]["stage"], job["order"]["key"]
            self.ran.append(name)
            error = f"{name}: broken" if self._fails(job["order"]) else None
            if error is None:
                of = next(one for one in STAGES if one.name == name)
                self._shelf.results[key] = result(of, key)
            outcome = Outcome(stage=name, node="n1", error=error, wall_s=2)
            ended.append(outcome.model_dump())
        return {"ended": ended, "where": {}}


class Plain:
    """Orders of stages that are no recipe's."""

    def of(self, of: Stage, key: str, missing: Missing, whole: bool) -> Order:
        return order(stage=of.name, key=key, files=missing.files(of.name, whole))

    def needs(self, of: Stage) -> Needs:
        return Needs(memory_bytes=0, gpus=0, named=[], exclusive=False)


def order(**change: Any) -> Order:
    usual = {
        "stage": "quantize@r--one",
        "command": "quantgate quantize r one",
        "key": "0" * 64,
        "store": "nowhere",
        "files": [],
        "revision": Revision(commit="c" * 40, changed=[]),
        "environments": ["openvino"],
        "device": "cpu",
    }
    return Order(**(usual | change))


def spread_over(
    cluster: Cluster, missing: Missing, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    @contextlib.contextmanager
    def session(ray: str) -> Iterator[Cluster]:
        yield cluster

    monkeypatch.setattr(command, "_session", session)
    stages = {one.name: one for one in STAGES}
    return Spreading(stages, missing, Plain(), {}).run("local", as_json=True)  # type: ignore[arg-type]


def test_every_stage_runs_once(
    missing: Missing,
    shelf: Shelf,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster = Cluster(shelf, lambda order: False)
    assert spread_over(cluster, missing, monkeypatch) == {}
    assert sorted(cluster.ran) == sorted(one.name for one in STAGES)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said[0] == {"nodes": 2, "dashboard": "127.0.0.1:8265"}
    assert [line["state"] for line in said[1:]] == ["done"] * len(STAGES)


def test_what_fails_is_not_tried_again_and_others_go_on(
    missing: Missing, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(shelf, lambda order: order["stage"] == "quantize@r--two")
    failed = spread_over(cluster, missing, monkeypatch)
    assert failed == {"quantize@r--two": "quantize@r--two: broken (on n1)"}
    assert sorted(cluster.ran) == [
        "calibrate@r",
        "gate@r--one",
        "quantize@r--one",
        "quantize@r--two",
    ]
    with pytest.raises(StageError, match=r"broken \(on n1\)\nnot run, .*: benchmark@r$"):
        command._end("r", failed, missing)


def test_a_gate_that_lacks_the_artifact_gets_it(
    missing: Missing, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(order: dict[str, Any]) -> bool:
        names = [file["path"] for file in order["files"]]
        return order["stage"] == GATE.name and "artifacts/models/r/one/w.bin" not in names

    cluster = Cluster(shelf, lacks)
    assert spread_over(cluster, missing, monkeypatch) == {}
    assert cluster.ran.count(GATE.name) == 2


def test_without_a_store_or_ray(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANTGATE_STORE", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(environments, "is_complete", lambda name: False)
        with pytest.raises(SetupError, match="quantgate setup ray"):
            command.spread("tiny", ray="local", as_json=False)
    monkeypatch.setattr(environments, "python", lambda name: Path("python"))
    with pytest.raises(SetupError, match="QUANTGATE_STORE: not set"):
        command.spread("tiny", ray="local", as_json=False)
    monkeypatch.setenv("QUANTGATE_STORE", "http://me:hidden-word@127.0.0.1:1/store")
    with pytest.raises(SetupError, match=r"http://127.0.0.1:1/store has a user") as told:
        command.spread("tiny", ray="local", as_json=False)
    assert "hidden-word" not in str(told.value)


@pytest.fixture(scope="module")
def tiny() -> Iterator[tuple[Orders, dict[str, Stage]]]:
    with contextlib.chdir(ROOT), graph.opened() as project:
        stages = {one.name: one for one in project.stages("tiny") if one.verb not in kept.HERE}
        listing = inputs.on_disk(project)
        yield Orders(recipe.load("tiny"), list(stages.values()), listing, "/shared"), stages


def test_what_a_job_needs(
    tiny: tuple[Orders, dict[str, Stage]], monkeypatch: pytest.MonkeyPatch
) -> None:
    orders, stages = tiny
    assert orders.needs(stages["evaluate@tiny--ov-int8"]).named == ["openvino"]
    assert orders.needs(stages["evaluate@tiny--vllm-bf16"]).named == []
    assert orders.needs(stages["quantize@tiny--ov-int8"]).named == []
    assert orders.needs(stages["reference@tiny"]).memory_bytes > 1e8
    assert [name for name, one in stages.items() if orders.needs(one).exclusive] == [
        "benchmark@tiny"
    ]
    monkeypatch.setenv("QUANTGATE_DEVICE", "cuda")
    on_gpu = orders.needs(stages["evaluate@tiny--vllm-bf16"])
    assert (on_gpu.named, on_gpu.gpus) == (["cuda"], 1)
    assert orders.needs(stages["evaluate@tiny--ov-int8"]).gpus == 0


def test_a_job_has_the_project_and_its_source_and_nothing_made(
    tiny: tuple[Orders, dict[str, Stage]], root: Path
) -> None:
    orders, stages = tiny
    with graph.opened() as project:
        sent = Missing(stages.values(), Shelf(), inputs.on_disk(project))  # type: ignore[arg-type]
        job = orders.of(stages["calibrate@tiny"], "0" * 64, sent, whole=False)
    names = {file.path for file in job.files}
    assert {
        "dvc.yaml",
        "params.yaml",
        "recipes/tiny.yaml",
        "pipeline/cli.py",
        "pipeline/spread/node.py",
        "environments/openvino.txt",
        "recipes/tiny/checkpoint/config.json",
    } <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("artifacts/mod")]
    assert job.environments == ["openvino"] and job.command == "quantgate calibrate tiny"


def test_files_outside_of_the_project_are_not_sent(root: Path) -> None:
    one = stage("calibrate@tiny", ["../elsewhere.txt"], [])
    with pytest.raises(RecipeError, match=r"names \.\./elsewhere\.txt, which lies outside"):
        Orders(recipe.load("tiny"), [one], lambda path: [], "/shared")


HOLD = """
import pathlib, sys
from pipeline.spread import cores
with cores.taken(1, pathlib.Path(sys.argv[1])) as ours:
    print(*ours, flush=True)
    sys.stdin.read()
"""


def test_no_core_is_two_jobs(tmp_path: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("one core")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": ROOT, "text": True}
    hold = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(hold, **pipes) as one, subprocess.Popen(hold, **pipes) as other:  # type: ignore[call-overload]
        assert one.stdout.readline() != other.stdout.readline()
        one.kill()  # the kernel lets go of what a killed job held
        one.wait()
        other.communicate()
    with cores.taken(len(allowed) + 1, tmp_path) as ours:
        assert ours == allowed


@pytest.fixture
def carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Order], Outcome]:
    """Carries out an order as a node does, with a script in the place of `quantgate`."""
    monkeypatch.setenv("QUANTGATE_ENVIRONMENTS", str(tmp_path / "environments"))
    monkeypatch.setattr(environments, "location", lambda name: tmp_path / name)
    monkeypatch.setattr(node.leash, "tie", lambda parent, stop: True)

    def carry(script: str, asked: Order) -> Outcome:
        program = tmp_path / "control" / "bin" / "quantgate"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        (tmp_path / "order.json").write_text(asked.dumps())
        files = str(tmp_path / "order.json"), str(tmp_path / "outcome.json")
        assert node.main(*files, "1", "1") == 0
        jobs = tmp_path / "spread" / "jobs"
        assert not jobs.is_dir() or not list(jobs.iterdir())
        return Outcome.model_validate_json((tmp_path / "outcome.json").read_text())

    return carry


@pytest.fixture
def sent(tmp_path: Path) -> Order:
    """An order with one file, which the store has."""
    (tmp_path / "source.txt").write_text("source")
    (file,) = inputs.hashed([tmp_path / "source.txt"])
    named = file.model_copy(update={"path": "deep/source.txt"})
    Store(str(tmp_path / "store")).objects.keep(named, tmp_path / "source.txt")
    return order(files=[named], store=str(tmp_path / "store"))


def test_a_job_runs_in_a_working_copy(
    carried: Callable[[str, Order], Outcome], sent: Order, tmp_path: Path, capfd: Any
) -> None:
    """Its result must be in the store under the key that was asked for."""
    script = f"cat deep/source.txt; echo $0 $@ $QUANTGATE_STORE; echo ${provenance.GIVEN}; ls -a"
    outcome = carried(script, sent)
    assert outcome.error is not None
    assert "it ran, but its result is not in the store: deep" in outcome.error
    said = capfd.readouterr().out
    assert "source" in said and f"quantize r one {tmp_path}/store" in said
    assert '"commit":"cccc' in said
    Store(str(tmp_path / "store")).put(result(ONE, sent.key).model_copy(update={"outs": []}))
    assert carried(script, sent).error is None


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo some; echo 'quantgate: r.yaml: no such key' >&2; exit 2", "r.yaml: no such key"),
        ("kill -9 $$", "quantize@r--one: ended with exit code -9: it said nothing"),
        ("echo Traceback; exit 1", "quantize@r--one: ended with exit code 1: Traceback"),
    ],
)
def test_a_stage_that_fails_is_one_line(
    carried: Callable[[str, Order], Outcome], sent: Order, script: str, error: str
) -> None:
    assert carried(script, sent).error == error


@pytest.mark.parametrize(
    ("script", "lacks"),
    [
        (f"exit {DiskFull.exit_code}", "disk"),
        (f"exit {NoMemory.exit_code}", "memory"),
        ("kill -9 $$", "memory"),
        ("exit 2", None),
        ("true", None),  # and no result in the store, which no other node would help
    ],
)
def test_what_a_node_lacks(
    carried: Callable[[str, Order], Outcome], sent: Order, script: str, lacks: str | None
) -> None:
    outcome = carried(script, sent)
    assert outcome.error is not None and outcome.lacks == lacks


def test_a_node_without_room_for_a_job_s_files(
    carried: Callable[[str, Order], Outcome], sent: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(objects, "_copied", refuse)
    outcome = carried("true", sent)
    assert outcome.lacks == "disk" and "the disk is full" in str(outcome.error)


PLACES = """
import json, sys
from pipeline.errors import StageError
from pipeline.records import Needs
from pipeline.spread import cluster

def placed(nodes, exclusive, short):
    needs = Needs(memory_bytes=0, gpus=0, named=["openvino"], exclusive=exclusive)
    try:
        count, options = cluster.placed(nodes, needs, short)
    except StageError as error:
        return str(error)
    alone = options.get("scheduling_strategy")
    return [count, alone and alone.node_id, options.get("label_selector")]

nodes, cases = json.loads(sys.argv[1])
print(json.dumps([placed(nodes, *case) for case in cases]))
"""


def test_a_job_avoids_nodes_that_lacked_something() -> None:
    """In Ray's environment. Where none is left, it is refused."""
    if not environments.is_complete("ray"):
        pytest.skip("environment ray is not installed (quantgate setup ray)")
    nodes = [
        {"NodeID": name * 56, "Resources": {"CPU": cores, "memory": 8e9, "openvino": 1.0}}
        for name, cores in (("1", 2), ("2", 4), ("3", 8))
    ]
    cases = {
        (False, ()): [2, None, None],
        (False, ("1" * 56,)): [4, None, {"ray.io/node-id": f"!in({'1' * 56})"}],
        (False, ("1" * 56, "2" * 56)): [
            8,
            None,
            {"ray.io/node-id": f"!in({'1' * 56},{'2' * 56})"},
        ],
        (True, ()): [8, "3" * 56, None],
        (True, ("3" * 56,)): [4, "2" * 56, None],
    }
    asked = json.dumps([nodes, [*cases, (False, [node["NodeID"] for node in nodes])]])
    command = [str(environments.python("ray")), "-c", PLACES, asked]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    *placed, refused = json.loads(done.stdout)
    assert placed == list(cases.values())
    assert "no node of the cluster has" in refused


def test_no_damaged_file_reaches_a_job(
    carried: Callable[[str, Order], Outcome], sent: Order, tmp_path: Path
) -> None:
    (stored,) = (path for path in (tmp_path / "store").rglob("*") if path.is_file())
    stored.write_text("Source")
    outcome = carried("touch ../../../ran", sent)
    assert outcome.error is not None and "its size or SHA-256 is another" in outcome.error
    assert not (tmp_path / "ran").exists()


def test_nodes_that_share_a_home_folder_have_cores_of_their_own(
    carried: Callable[[str, Order], Outcome], sent: Order, tmp_path: Path
) -> None:
    allowed = len(os.sched_getaffinity(0))
    with cores.taken(allowed, tmp_path / "spread" / "cores" / "another"):
        carried("true", sent)
    locks = {folder.name for folder in (tmp_path / "spread" / "cores").iterdir()}
    assert locks == {"another", platform.node()}


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a/../../out.txt"])
def test_no_file_leaves_the_working_copy(
    carried: Callable[[str, Order], Outcome], sent: Order, name: str
) -> None:
    moved = sent.files[0].model_copy(update={"path": name})
    outcome = carried("true", sent.model_copy(update={"files": [moved]}))
    assert outcome.error is not None and "expected a path inside" in outcome.error


def test_only_our_own_command_is_run(carried: Callable[[str, Order], Outcome], sent: Order) -> None:
    outcome = carried("true", sent.model_copy(update={"command": "rm -r x"}))
    assert outcome.error is not None and "expected a command of quantgate" in outcome.error


def test_what_a_killed_job_left_is_removed(
    carried: Callable[[str, Order], Outcome], sent: Order, tmp_path: Path
) -> None:
    left = tmp_path / "spread" / "jobs" / "left"
    left.mkdir(parents=True)
    left.with_suffix(".lock").touch()
    carried("true", sent)
    assert not left.exists()


def test_a_line_for_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown.Lines(as_json=False)
    for _ in range(2):
        lines.set("a", shown.RUNS, "n1")
    lines.set("a", shown.RUNS, "n2")
    lines.set("a", shown.FAILED, "n2", "broken")
    assert capsys.readouterr().out.splitlines() == [
        "a runs on n1",
        "a runs on n2",
        "a failed on n2: broken",
    ]


def test_the_table_has_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    table = shown.OnTerminal(["a", "b"])
    table.started("127.0.0.1:8265", 2)
    table.set("a", shown.DONE, "n1", "12 s")
    table.left(3600)
    table.set("b", shown.FAILED, "n1", "no [key] here")
    Console(width=100).print(table.drawn())
    said = capsys.readouterr().out
    assert "2 nodes; Ray's dashboard: 127.0.0.1:8265" in said and "about 60 min left" in said
    assert "12 s" in said and "no [key] here" in said
