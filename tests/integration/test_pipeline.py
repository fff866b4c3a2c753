"""The whole way on the tiny recipe, with a 2-bit variant added that must not pass."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import paths
from pipeline.records import (
    Benchmark,
    Checkpoint,
    Evaluation,
    Manifest,
    Rounding,
    artifact,
    read,
)
from tests.conftest import command
from tests.processor import NOT_MEASURED, ON_VLLM

pytestmark = pytest.mark.engine
VARIANTS = ("ov-bf16", "ov-int8", "ov-int4", "vllm-bf16", "gptq-int4", "awq-int4")
MEASURED = tuple(name for name in VARIANTS if name not in NOT_MEASURED)


def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(paths.report("tiny", "json").read_text())
    return found


def test_every_shipped_variant_passes_and_two_bit_rounding_fails(run: Path) -> None:
    verdicts = {name: row["verdict"]["status"] for name, row in report()["variants"].items()}
    expected = dict.fromkeys(VARIANTS, "PASS") | dict.fromkeys(NOT_MEASURED, "INCONCLUSIVE")
    assert verdicts == expected | {"rounded-int2": "FAIL"}
    done = command("quantgate", "require", "tiny")
    assert done.returncode == 1
    assert "rounded-int2 (FAIL)" in done.stderr
    assert command("quantgate", "require", "tiny", "ov-int8").returncode == 0


def test_the_failed_variant_is_reported_and_not_benchmarked(run: Path) -> None:
    assert not read(paths.benchmark("tiny", "rounded-int2"), Benchmark).measured
    page = paths.report("tiny", "md").read_text()
    assert "| rounded-int2 | **FAIL** |" in page
    assert "not benchmarked: the gate says FAIL" in page


def test_what_damage_costs(run: Path) -> None:
    rows = report()["variants"]
    reference = report()["reference"]
    accuracy = {
        name: weighted(row["tasks"])
        for name, row in {**rows, "reference": reference}.items()
        if name not in NOT_MEASURED
    }
    assert 0.80 <= accuracy["reference"] <= 0.95
    assert abs(accuracy["reference"] - accuracy["ov-int8"]) < 0.005
    assert accuracy["reference"] - accuracy["rounded-int2"] > 0.10


def weighted(tasks: dict[str, Any]) -> float:
    return float(
        sum(t["accuracy"] * t["n"] for t in tasks.values()) / sum(t["n"] for t in tasks.values())
    )


def test_manifests_say_what_was_asked_and_what_was_done(run: Path) -> None:
    for name in VARIANTS:
        manifest = read(paths.manifest("tiny", name), Manifest)
        artifact.verify(paths.model("tiny", name), manifest.files)
        assert manifest.layers.quantized == manifest.layers.expected == 21
        assert manifest.wall_s > 0
        assert manifest.resolved
    ov = read(paths.manifest("tiny", "ov-int4"), Manifest)
    assert ov.resolved["group_size"] == 128
    assert ov.resolved["nncf"]["awq"] == "True"
    assert ov.stored_types == {"int4": 21}
    stored = sum(ov.weights_by_type.values())
    assert stored == pytest.approx(
        read(paths.checkpoint("tiny"), Checkpoint).parameters, rel=0.01
    )  # all but the norms
    asked = json.loads(Path("recipes/tiny/checkpoint/config.json").read_text())
    assert (
        ov.weights_by_type["int8"] == asked["vocab_size"] * asked["hidden_size"]
    )  # embedding and output layer are one
    assert ov.rounding == Rounding(
        format="openvino", bits=4, group_size=128, symmetric=False, outside=["int8"]
    )
    gptq = read(paths.manifest("tiny", "gptq-int4"), Manifest)
    assert gptq.rounding == Rounding(
        format="gptq", bits=4, group_size=128, symmetric=True, outside=["bf16"]
    )
    assert gptq.resolved["desc_act"] is False
    assert len(gptq.resolved["loss_by_layer"]) == 21
    awq = read(paths.manifest("tiny", "awq-int4"), Manifest)
    assert awq.rounding == Rounding(
        format="awq", bits=4, group_size=128, symmetric=False, outside=["bf16"]
    )
    int8 = read(paths.manifest("tiny", "ov-int8"), Manifest)
    assert int8.rounding == Rounding(
        format="openvino", bits=8, group_size=-1, symmetric=False, outside=["int8"]
    )
    int2 = read(paths.manifest("tiny", "rounded-int2"), Manifest)
    assert int2.rounding == Rounding(
        format="simulated", bits=2, group_size=128, symmetric=False, outside=["bf16"]
    )
    assert read(paths.manifest("tiny", "ov-bf16"), Manifest).rounding is None


def test_all_engines_measured_the_same_tokens_and_items(run: Path) -> None:
    evaluations = [
        read(paths.evaluation("tiny", name), Evaluation) for name in ("reference", *MEASURED)
    ]
    keys = [
        [(i.task, i.doc_id, i.doc_hash, i.prompt_hash) for t in e.tasks for i in t.items]
        for e in evaluations
    ]
    assert all(key == keys[0] for key in keys)
    assert len(keys[0]) >= 2000
    views = [e.views.get("deployed") or e.views["reference"] for e in evaluations]
    assert len({tuple((p.text_sha256, p.tokens) for p in view.perplexity) for view in views}) == 1
    assert len({e.logprobs_sha256 for e in evaluations}) == 1


def test_nothing_changed_nothing_runs(run: Path) -> None:
    status = command("dvc", "status", "report@tiny").stdout
    done = command("dvc", "repro", "report@tiny")
    assert done.returncode == 0
    assert "Running stage" not in done.stdout, status


def stages_that_would_run() -> set[str]:
    done = command("dvc", "status", "--json")
    return {name for name in json.loads(done.stdout) if "@tiny--" in name}


def test_only_what_changed_runs_again(run: Path) -> None:
    recipe = run / "recipes" / "tiny.yaml"
    text = recipe.read_text()
    expected = {
        "group_size: 128, awq: true": ("group_size: 64, awq: true", {"quantize@tiny--ov-int4"}),
        "int8: 1.005": (
            "int8: 1.006",
            {f"gate@tiny--{name}" for name in (*VARIANTS, "rounded-int2")},
        ),
        "# The offline": ("# An offline", set()),
    }
    try:
        for old, (new, stages) in expected.items():
            recipe.write_text(text.replace(old, new, 1))
            assert stages_that_would_run() == stages
    finally:
        recipe.write_text(text)


def test_dvc_metrics_and_params_say_something(run: Path) -> None:
    shown = command("dvc", "metrics", "show", "--json").stdout
    files = json.loads(shown)[""]["data"]
    metrics = {
        Path(path).stem: found["data"]
        for path, found in files.items()
        if path.startswith("artifacts/metrics/tiny/")
    }
    assert metrics["ov-int8"]["verdict"] == "PASS"
    assert metrics[ON_VLLM]["tokens_per_s_at_1"] > 0
    assert metrics["rounded-int2"]["perplexity_ratio"] > 1.05
    assert metrics["rounded-int2"]["mean_kl"] > 0.1
    table = command("dvc", "metrics", "show", "artifacts/metrics/tiny").stdout.splitlines()
    assert len(table) == 1 + len(metrics)
    assert max(map(len, table)) < 210


def test_dvc_selects_variants_by_glob(run: Path) -> None:
    done = command("dvc", "repro", "--dry", "--glob", "quantize@tiny--ov-*")
    assert done.returncode == 0
    assert "gptq-int4" not in done.stdout


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """A command in a process group of its own, so that all of it can be killed at once."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    null = subprocess.DEVNULL
    return subprocess.Popen(
        arguments,
        env={**os.environ, "PATH": path},
        start_new_session=True,
        stdout=null,
        stderr=null,
    )


@pytest.fixture
def records_as_before(run: Path) -> Iterator[None]:
    """A record made again says other seconds, for which DVC would time the whole recipe again."""
    files = [
        Path("dvc.lock"),
        paths.manifest("tiny", "ov-int8"),
        paths.evaluation("tiny", "ov-int8"),
    ]
    before = {path: path.read_bytes() for path in files}
    yield
    for path, stored in before.items():
        path.unlink()  # DVC's cache may be the same file
        path.write_bytes(stored)


@pytest.mark.usefixtures("records_as_before")
@pytest.mark.parametrize("stage", ["quantize", "evaluate"])
def test_killed_at_any_moment_and_run_again(run: Path, stage: str) -> None:
    model, record = paths.model("tiny", "ov-int8"), paths.evaluation("tiny", "ov-int8")
    manifest = read(paths.manifest("tiny", "ov-int8"), Manifest)
    measured = read(record, Evaluation)
    rng = random.Random(stage)
    for seconds in (2.0, rng.uniform(3, 7), rng.uniform(7, 13)):
        process = start("dvc", "repro", "-f", "-s", f"{stage}@tiny--ov-int8")
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if model.exists():
            artifact.verify(model, manifest.files)
        if record.exists():
            read(record, Evaluation)
    # Forced, or DVC would only take the lost outputs from its cache.
    done = command("dvc", "repro", "-f", "-s", f"{stage}@tiny--ov-int8")
    assert done.returncode == 0, done.stderr
    assert read(paths.manifest("tiny", "ov-int8"), Manifest).files == manifest.files
    artifact.verify(model, manifest.files)
    again = read(record, Evaluation)
    values = [
        [p.value for p in record.views["deployed"].perplexity] for record in (again, measured)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-3)
    assert again.artifact_sha256 == measured.artifact_sha256
    assert not (paths.TEMPORARY / f"{stage}.tiny--ov-int8").exists()


def test_killing_the_command_alone_kills_its_worker(run: Path) -> None:
    process = start("quantgate", "evaluate", "tiny", "ov-int8")
    time.sleep(3)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    process.kill()
    process.wait()
    assert psutil.wait_procs(workers, timeout=5)[1] == []


def test_a_damaged_artifact_is_not_evaluated_and_fails(run: Path) -> None:
    path, record = (
        paths.model("tiny", "ov-bf16") / "openvino_model.bin",
        paths.evaluation("tiny", "ov-bf16"),
    )
    data, measured = path.read_bytes(), record.read_bytes()
    path.unlink()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    try:
        assert command("quantgate", "evaluate", "tiny", "ov-bf16").returncode == 0
        failure = read(record, Evaluation).failure
        assert failure is not None
        assert "openvino_model.bin" in failure
        done = command("quantgate", "require", "tiny", "ov-bf16")
        assert done.returncode == 2
        assert "openvino_model.bin" in done.stderr
    finally:
        path.write_bytes(data)
        record.unlink()
        record.write_bytes(measured)
    assert command("quantgate", "require", "tiny", "ov-bf16").returncode == 0


def test_a_moved_limit_makes_the_verdict_stale(run: Path) -> None:
    recipe = run / "recipes" / "tiny.yaml"
    text = recipe.read_text()
    try:
        recipe.write_text(text.replace("int8: 1.005", "int8: 1.000001"))
        done = command("quantgate", "require", "tiny", "ov-int8")
        assert done.returncode == 2
        assert "out of date" in done.stderr
    finally:
        recipe.write_text(text)


def test_an_unknown_task_is_said_with_the_nearest(run: Path) -> None:
    recipe = run / "recipes" / "tiny.yaml"
    text = recipe.read_text()
    try:
        recipe.write_text(text.replace("world_sums: all", "world_sumz: all"))
        done = command("quantgate", "plan", "tiny")  # before anything runs
        assert done.returncode == 2
        assert "evaluate.tasks: found 'world_sumz'" in done.stderr
        assert "world_sums" in done.stderr
    finally:
        recipe.write_text(text)


def test_verdicts_are_the_gates_own(run: Path) -> None:
    verdict = paths.verdict("tiny", "gptq-int4").read_text()
    command("quantgate", "gate", "tiny", "gptq-int4")
    assert paths.verdict("tiny", "gptq-int4").read_text() == verdict
