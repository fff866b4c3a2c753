"""The gate on a real run: both views, rechecked, partial evaluations, more items drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import paths
from pipeline.records import Evaluation, Extension, Verdict, read
from tests.conftest import command
from tests.integration.test_pipeline import MEASURED

pytestmark = pytest.mark.engine


def test_both_views_were_measured_and_differ_where_engines_round(run: Path) -> None:
    for name in MEASURED:
        views = read(paths.evaluation("tiny", name), Evaluation).views
        assert set(views) == {"deployed", "weights"}
        positions = [
            sum(len(w.kl_nats) for w in view.divergence[0].windows) for view in views.values()
        ]
        assert min(positions) >= 16320
        assert len(views["deployed"].divergence[0].worst) == 20
    exact = read(paths.evaluation("tiny", "vllm-bf16"), Evaluation).views
    mean = {
        name: np.mean([x for w in view.divergence[0].windows for x in w.kl_nats])
        for name, view in exact.items()
    }
    assert abs(mean["weights"]) < 1e-7 < mean["deployed"]


def test_recheck_is_bit_for_bit(run: Path) -> None:
    path = paths.verdict("tiny", "ov-int8")
    assert command("quantgate", "gate", "tiny", "ov-int8", "--recheck").returncode == 0
    stored = path.read_text()
    try:
        path.unlink()
        path.write_text(stored.replace('"PASS"', '"PASS" ', 1))
        done = command("quantgate", "gate", "tiny", "ov-int8", "--recheck")
        assert done.returncode == 2
        assert "not what the evaluations" in done.stderr
    finally:
        path.write_text(stored)


def test_a_partial_evaluation_is_no_pass(run: Path) -> None:
    path = paths.evaluation("tiny", "ov-int8")
    stored = path.read_text()
    measured = read(path, Evaluation)
    fewer = [task.model_copy(update={"items": task.items[:-1]}) for task in measured.tasks]
    try:
        path.unlink()
        measured.model_copy(update={"tasks": fewer}).write(path)
        said = command("quantgate", "gate", "tiny", "ov-int8").stdout
        assert "ov-int8: FAIL" in said
        assert "a partial evaluation is no PASS" in said
    finally:
        path.unlink()
        path.write_text(stored)
        assert command("quantgate", "gate", "tiny", "ov-int8").stdout.startswith("ov-int8: PASS")


def test_inconclusive_draws_more_items_by_itself(run: Path) -> None:
    """65 items cannot decide two points; 780 can. Evaluate draws them; for a limit that is moved
    afterwards, the gate."""
    recipe = (run / "recipes" / "tiny.yaml").read_text()
    start, end = recipe.index("  tasks: {"), recipe.index("  task_path")
    tasks = (
        "  tasks: {world_sums: 40, world_sentences: 25}\n  extend_to: {world_sums: 480,"
        " world_sentences: 300}\n"
    )
    recipe = recipe[:start] + tasks + recipe[end:]
    recipe = recipe.replace("gate:\n", "gate:\n  on_inconclusive: extend\n").split("variants:")[0]
    recipe = recipe.replace("positions: 16320", "positions: 1024").replace(
        "bf16: 0.01,", "bf16: 0.02,"
    )
    (run / "recipes" / "extend.yaml").write_text(
        recipe + "variants:\n  ov-bf16: {engine: openvino}\n"
    )
    try:
        assert command("quantgate", "index").returncode == 0
        done = command("dvc", "repro", "gate@extend--ov-bf16")
        assert (
            "undecided; adding items: world_sums 40 to 80, world_sentences 25 to 50" in done.stdout
        ), done.stderr
        verdict = read(paths.verdict("extend", "ov-bf16"), Verdict)
        pooled = next(check for check in verdict.checks if check.name == "accuracy_drop")
        assert (verdict.status, pooled.status) == ("PASS", "PASS")
        assert pooled.n in (130, 260, 520, 780)
        assert " of 5 at growing samples" in pooled.method
        measured = read(paths.evaluation("extend", "ov-bf16"), Evaluation)
        assert sum(len(task.items) for task in measured.tasks) == pooled.n < 780
        assert not read(paths.extension("extend", "ov-bf16"), Extension).tasks
        path = run / "recipes" / "extend.yaml"
        path.write_text(path.read_text().replace("bf16: 0.02,", "bf16: 0.0075,"))
        moved = command("dvc", "repro", "gate@extend--ov-bf16")
        assert "Running stage 'gate@extend" in moved.stdout
        assert "Running stage 'evaluate" not in moved.stdout and "adding items" in moved.stdout
        assert read(paths.extension("extend", "ov-bf16"), Extension).tasks
        again = command("quantgate", "gate", "extend", "ov-bf16")
        assert "adding items" not in again.stdout  # those of the first time still count
    finally:
        (run / "recipes" / "extend.yaml").unlink()
        command("quantgate", "index")
