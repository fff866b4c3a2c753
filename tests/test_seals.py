"""What is edited, exchanged or taken away after its stage wrote it shows, by `require`, by sign-off
and in a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, paths, records
from pipeline.errors import ArtifactError
from pipeline.evidence import keeping, seals
from pipeline.recipe import Recipe
from pipeline.release.signoff import log
from pipeline.stages import gate as gate_stage
from pipeline.stages import require
from tests import release
from tests.release import ADA, PASS, RECIPE, key

pytestmark = pytest.mark.usefixtures("quick_gate")


def rewrite(path: Path, change: Callable[[Any], object]) -> None:
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said, indent=1) + "\n")


def divide(said: Any) -> None:
    """An evaluation at a hundredth of its KL."""
    for view in said["views"].values():
        for text in view["divergence"]:
            for window in text["windows"]:
                window["kl_nats"] = [value / 100 for value in window["kl_nats"]]


def lower_kl() -> None:
    rewrite(paths.evaluation(*PASS), divide)
    gate_stage.run(*PASS)  # and the gate ran again


def better_items() -> None:
    rewrite(paths.evaluation(*PASS), lambda said: said["tasks"][0]["items"][0].update(score=0.0))
    gate_stage.run(*PASS)


def worse_reference() -> None:
    rewrite(
        paths.evaluation(RECIPE, "reference"),
        lambda said: said["tasks"][0]["items"][0].update(score=0.0),
    )
    gate_stage.run(*PASS)


def invented_commit() -> None:
    rewrite(paths.manifest(*PASS), lambda said: said["origin"]["revision"].update(commit="c" * 40))


def emptied_load_check() -> None:
    rewrite(paths.evaluation(*PASS), lambda said: said["load_check"].update(relative_error={}))


def other_timings() -> None:
    rewrite(
        paths.timings(*PASS),
        lambda said: said["replays"]["deployed"][0]["requests"][0].update(prompt_tokens=3),
    )


def deleted_timings() -> None:
    paths.timings(*PASS).unlink()


def quieter_benchmark() -> None:
    """What no raw timing gives."""
    rewrite(
        paths.benchmark(*PASS),
        lambda said: said["profiles"]["deployed"].update(peak_memory_bytes=1),
    )


def no_seal() -> None:
    rewrite(paths.evaluation(*PASS), lambda said: said.update(seal=None))


def own_seal_alone() -> None:
    """Who seals the edited record again, and not what was made from it."""
    invented_commit()
    keeping.keep_manifest(records.read(paths.manifest(*PASS), records.Manifest), paths.place(*PASS))


def floor() -> None:
    rewrite(paths.evaluation(RECIPE, "ov-bf16"), divide)
    gate_stage.run(*PASS)


CHANGED = "changed since its stage wrote it"
FORGERIES: dict[Callable[[], None], str] = {
    lower_kl: f"evaluations/tiny/ov-int8.json: {CHANGED}",
    better_items: f"evaluations/tiny/ov-int8.json: {CHANGED}",
    worse_reference: f"evaluations/tiny/reference.json: {CHANGED}",
    invented_commit: f"manifests/tiny/ov-int8.json: {CHANGED}",
    emptied_load_check: f"evaluations/tiny/ov-int8.json: {CHANGED}",
    other_timings: f"timings/tiny/ov-int8.json: {CHANGED}",
    deleted_timings: "benchmarks/tiny/ov-int8.json: made from another timings.json",
    quieter_benchmark: f"benchmarks/tiny/ov-int8.json: {CHANGED}",
    no_seal: "evaluations/tiny/ov-int8.json: not sealed",
    own_seal_alone: "evaluations/tiny/ov-int8.json: made from another manifest.json",
    floor: f"evaluations/tiny/ov-bf16.json: {CHANGED}",
}


@pytest.mark.parametrize("forge", FORGERIES)
def test_what_was_changed_after_its_stage_is_refused(
    measured: Recipe, capsys: pytest.CaptureFixture[str], forge: Callable[[], None]
) -> None:
    forge()
    ask = ["signoff", "request", *PASS]
    for words in (
        ["require", *PASS],
        ask,
        ["signoff", "approve", *PASS, "--key", key(ADA)],
        ["signoff", "verify", *PASS],
    ):
        assert cli.main(words) == ArtifactError.exit_code
        assert FORGERIES[forge] in capsys.readouterr().err
    assert not log.path(*PASS).exists()


def test_untouched_records_hold_whatever_they_took(measured: Recipe) -> None:
    """How long a stage took, and how much memory, is no part of what was made."""
    rewrite(paths.evaluation(*PASS), lambda said: said.update(wall_s=77.0, peak_memory_bytes=5))
    require.run(*PASS)


def test_whoever_seals_everything_again_is_believed(measured: Recipe) -> None:
    """A seal is no signature: docs/sign-off.md says so."""
    lower_kl()
    release.seal_again()
    require.run(*PASS)


def test_a_seal_is_of_what_is_written(measured: Recipe) -> None:
    """In a file that was read and written anew it still holds, whatever its spelling; numbers that
    are no numbers included."""
    path = paths.evaluation(*PASS)
    rewrite(
        path,
        lambda said: said["views"]["deployed"]["perplexity"][0]["windows"][0].update(
            nll_nats=float("nan")
        ),
    )
    release.seal_again()
    records.read(path, records.Evaluation).write(path)
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert seals.broken({"evaluation.json": path}) == []


def test_an_unsealed_rung_says_what_makes_it_again(measured: Recipe) -> None:
    path = paths.rungs(RECIPE, "fastest") / "0123" / "manifest.json"
    records.read(paths.manifest(*PASS), records.Manifest).model_copy(update={"seal": None}).write(
        path
    )
    (said,) = seals.broken({"manifest.json": path})
    assert said.endswith(
        "not sealed: written by an earlier version, or by hand. Make it again: dvc repro -f"
        " climb@tiny--fastest"
    )
