"""Which variants are timed: what passed, and what that is compared with."""

from __future__ import annotations

import pytest

from pipeline import paths, recipe, records, report
from pipeline.errors import Rejected
from pipeline.stages import benchmark, require
from pipeline.stages import gate as gate_stage
from tests import release

pytestmark = pytest.mark.usefixtures("quick_gate")


@pytest.mark.parametrize(
    ("words", "timed"),
    [
        ({"ov-bf16": "PASS", "ov-int8": "PASS"}, ["ov-bf16", "ov-int8"]),
        ({"ov-bf16": "INCONCLUSIVE", "ov-int8": "PASS"}, ["ov-bf16", "ov-int8"]),
        ({"ov-bf16": "PASS", "ov-int8": "FAIL"}, ["ov-bf16"]),  # it may be shipped itself
        ({"ov-bf16": "INCONCLUSIVE", "ov-int8": "INCONCLUSIVE"}, []),
        ({"ov-bf16": "FAIL"}, ["ov-bf16"]),
    ],
)
def test_a_baseline_is_timed_to_ship_or_to_compare(
    measured: recipe.Recipe, words: dict[str, str], timed: list[str]
) -> None:
    asked = measured.model_copy(
        update={"variants": {variant: measured.variants[variant] for variant in words}}
    )
    assert benchmark._timed(asked, words) == timed


def test_where_nothing_passed_nothing_is_timed_and_the_report_says_so(
    measured: recipe.Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    for variant in measured.variants:
        path = paths.evaluation("tiny", variant)
        found = records.read(path, records.Evaluation)
        broken = {"failure": "weights are NaN", "views": {}, "tasks": []}
        found.model_copy(update=broken).write(path)
        gate_stage.run("tiny", variant)
    for folder in (paths.timings("tiny", "x").parent, paths.benchmark("tiny", "x").parent):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()  # as DVC does before a stage
    release.seal_again()
    benchmark.run("tiny")
    said = capsys.readouterr().out
    assert "ov-bf16: not benchmarked: the gate says FAIL, and no quantized variant passed" in said
    assert "ov-int8: not benchmarked: the gate says FAIL" in said
    assert list(paths.timings("tiny", "x").parent.iterdir()) == []  # and is there, for DVC
    report.write(measured)
    assert (
        "not benchmarked: the gate says FAIL, and no quantized variant passed"
        in paths.report("tiny", "md").read_text()
    )
    with pytest.raises(Rejected, match=r"ov-bf16 \(FAIL\), ov-int8 \(FAIL\)"):
        require.run("tiny", None)
