"""`quantgate run`: the stages that it counts are DVC's, what it says of them is what DVC does, and
it ends as `require` would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline import cli, paths, recipe
from pipeline.planning import index
from pipeline.records import StageCost
from pipeline.stages import chain
from tests.conftest import command, commit_all, parsed
from tests.test_defaults import MINIMAL

LADDER = "  ov-small: {engine: openvino, ladder: [int4 g128, int8]}\n"


def dvc_stages(name: str) -> set[str]:
    from dvc.repo import Repo

    with Repo(".") as repo:
        return {
            stage.name
            for stage in repo.index.stages
            if stage.name.split("@")[1].split("--")[0] == name
        }


def test_the_chain_has_dvcs_stages(project: Path) -> None:
    paths.recipe("mine").write_text(MINIMAL + LADDER)
    index.write()
    commit_all()  # without git there is no DVC
    for name in ("tiny", "mine"):
        found = chain.chain(recipe.load(name), "require")
        assert len(set(found)) == len(found)
        assert set(found) == dvc_stages(name)
    assert chain.chain(recipe.load("mine"), "calibrate") == ["pin@mine", "calibrate@mine"]
    for last in ("pin", "calibrate", *chain.LAST):
        assert parsed("run", "tiny", "--until", last)["until"] == last


def test_each_stage_is_counted_and_the_time_left_falls() -> None:
    announced = chain.Announced(
        ["pin@x", "calibrate@x", "reference@x", "trace@x"], {"pin@x": 60.0, "calibrate@x": 120.0}
    )
    lines = [
        "Stage 'pin@x' didn't change, skipping\n",
        "Running stage 'calibrate@x':\n",
        "> quantgate calibrate x\n",
        "a note\n",
        "\n",
        "Running stage 'elsewhere@y':\n",
        "Stage 'reference@x' is cached - skipping run, checking out outputs\n",
        "Running stage 'trace@x':\n",
    ]
    assert [said for line in lines if (said := announced.of(line))] == [
        "[1 of 4] pin@x did not change",
        "[2 of 4] calibrate@x runs; about 2 min left in all, log: artifacts/logs/calibrate.x.log",
        "a note",
        "Running stage 'elsewhere@y':",
        "[3 of 4] reference@x is in DVC's cache",
        "[4 of 4] trace@x runs; about 0 s left in all, log: artifacts/logs/trace.x.log",
    ]


STAND_IN = """\
#!/bin/sh
echo "Running stage 'require@tiny':"
echo "> quantgate require tiny"
exec {python} -m pipeline.cli require tiny
"""


@pytest.mark.parametrize("word", ["PASS", "FAIL", "unchanged"])
def test_the_verdicts_are_printed_once(
    measured: recipe.Recipe,
    tmp_path: Path,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Whether DVC runs `require`, which prints them too, or finds that nothing changed."""
    if word == "FAIL":
        path = paths.recipe("tiny")
        path.write_text(path.read_text().replace("  p99_kl:", "  speedup: {int8: 1.6}\n  p99_kl:"))
    stand_in = tmp_path / "dvc"
    stand_in.write_text(
        STAND_IN.format(python=sys.executable) if word != "unchanged" else "#!/bin/sh\n"
    )
    stand_in.chmod(0o755)
    monkeypatch.setattr("pipeline.stages.chain.local.refuse", lambda *_: None)
    monkeypatch.setattr("pipeline.stages.chain.seconds", lambda *_: {})
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("COLUMNS", "140")
    assert cli.main(["run", "tiny"]) == (1 if word == "FAIL" else 0)
    said = capfd.readouterr()
    assert said.out.count("│ ov-int8") == 1, said
    assert said.out.count("accurate but not faster") == (1 if word == "FAIL" else 0)


def test_what_is_impossible_is_refused_before_anything_runs(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths.recipe("mine").write_text(
        MINIMAL
    )  # by default in windows for 4096 positions, of which the model has 512
    assert cli.main(["run", "mine"]) == 2
    assert (
        "serve.max_model_len: found 4096, the model was made for 512 positions"
        in capsys.readouterr().err
    )
    assert not Path("artifacts/checkpoints").exists()


def test_the_time_of_a_stage_is_its_last_or_a_plan(project: Path) -> None:
    paths.recipe("mine").write_text(MINIMAL + LADDER)
    loaded = recipe.load("mine")
    stages = chain.chain(loaded, "require")
    planned = chain.seconds(loaded, stages)
    assert all(planned[stage] > 0 for stage in stages if stage.startswith(chain.LONG))
    assert (
        planned["climb@mine--ov-small"] > planned["quantize@mine--ov-int4"]
    )  # of two rungs, evaluated too
    StageCost(
        stage="pin@mine",
        environment="openvino",
        wall_s=77.0,
        processor_s=1,
        peak_memory_bytes=1,
        peak_anonymous_bytes=1,
    ).write(paths.cost("pin@mine"))
    assert chain.seconds(loaded, stages) == {**planned, "pin@mine": 77.0}


@pytest.mark.engine
def test_a_minimal_recipe_runs_in_dvc(project: Path) -> None:
    """Whose sections are DVC's parameters, though the recipe leaves two of them out."""
    local = (
        "evaluate: {perplexity: {texts: [tiny-text], window: 64}, tasks: {world_facts: 50},"
        " task_path: recipes/tiny/tasks}\n"
    )
    paths.recipe("mine").write_text(MINIMAL + local + "serve: {max_model_len: 512}\n")
    commit_all()
    done = command("quantgate", "run", "mine", "--until", "calibrate")
    assert done.returncode == 0, done.stderr
    assert [
        line.partition(";")[0] for line in done.stdout.splitlines() if line.startswith("[")
    ] == [
        "[1 of 2] pin@mine runs",
        "[2 of 2] calibrate@mine runs",
    ]
    assert paths.log("calibrate.mine").is_file()
    again = command("dvc", "repro", "calibrate@mine")
    assert [line for line in again.stdout.splitlines() if chain.SKIPS.match(line)] == [
        "Stage 'pin@mine' didn't change, skipping",
        "Stage 'calibrate@mine' didn't change, skipping",
    ]


@pytest.mark.engine
def test_stopped_in_a_stage_it_begins_no_other(project: Path) -> None:
    """By a signal to itself alone, as service managers send it, which ends as Ctrl-C does: DVC goes
    on after a stage that failed, and takes one that was stopped for that."""
    commit_all()
    words = [str(Path(sys.executable).with_name("quantgate")), "run", "tiny"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as running:
        assert running.stdout is not None
        assert any("pin@tiny runs" in line for line in running.stdout)
        deadline = time.monotonic() + 60
        while not paths.log("pin.tiny").is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
        running.terminate()
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.splitlines()[-1].startswith("quantgate: stopped; nothing half-written remains.")
    assert "calibrate@tiny" not in out
    here = [
        process.pid
        for process in psutil.process_iter(["cwd"])
        if process.info["cwd"] == str(project)
    ]
    assert here == [os.getpid()]
