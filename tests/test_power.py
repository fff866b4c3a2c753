"""What `quantgate plan` promises about the items."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import gate, recipe
from pipeline.planning import plan, power
from pipeline.runtime import environments, process
from tests.conftest import ROOT


@pytest.mark.usefixtures("root")
def test_every_task_and_the_pool_have_a_row() -> None:
    tiny = recipe.load("tiny")
    rows = power.of(tiny, {"a": 1237, "b": 1237, "c": None})
    assert [row.task for row in rows] == ["a", "b", "c", "all pooled"]
    assert rows[0].detectable[0] == pytest.approx(
        0.01, rel=0.002
    )  # 1,237 items at 2 % changed decide one point
    assert rows[2].detectable == rows[3].detectable == []
    assert rows[0].margins["int4"] == tiny.gate.task_drop["int4"]
    assert rows[3].margins["int4"] == tiny.gate.accuracy_drop["int4"]


def test_more_looks_decide_less() -> None:
    text = (ROOT / "recipes" / "qwen3-8b.yaml").read_text()
    tasks = "  tasks: {mmlu: 2500, hellaswag: 2500, arc_challenge: all}\n"
    assert tasks in text
    counts: dict[str, int | None] = {"mmlu": 2500, "hellaswag": 2500}
    text = text.replace(tasks, "  tasks: {mmlu: 2500, hellaswag: 2500}\n")
    tasks = "  tasks: {mmlu: 2500, hellaswag: 2500}\n"
    plain = recipe.Recipe.model_validate(
        YAML(typ="safe").load(text.replace("  sequential: true\n", ""))
    )
    extended = recipe.Recipe.model_validate(
        YAML(typ="safe").load(
            text.replace(tasks, tasks + "  extend_to: {mmlu: 10000, hellaswag: 10000}\n").replace(
                "  sequential: true\n", "  on_inconclusive: extend\n"
            )
        )
    )
    assert gate.limits.of(extended, extended.variants["ov-int8"]).fractions == (0.25, 0.5, 1)
    assert power.of(extended, counts)[-1].detectable[0] > power.of(plain, counts)[-1].detectable[0]
    assert power.of(extended, counts)[0].detectable == power.of(plain, counts)[0].detectable


def test_all_items_are_looked_up_where_that_can_be_done(
    root: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = recipe.load("qwen3-8b")
    asked = {"mmlu": 2500, "hellaswag": 2500}

    def answer(environment: str, verb: str, *_: object, offline: bool) -> process.Finished:
        assert (environment, verb, offline) == ("openvino", "count", True)
        items = {"mmlu": 14042, "hellaswag": 10042, "arc_challenge": 1172}
        return process.Finished({"items": items, "absent": []}, 0, 0)

    def no_data(*_: object, **__: object) -> process.Finished:
        return process.Finished({"items": {}, "absent": ["task mmlu (cais/mmlu)"]}, 0, 0)

    for complete, run, expected in (
        (True, answer, 1172),
        (True, no_data, None),
        (False, answer, None),
    ):
        monkeypatch.setattr(environments, "is_complete", lambda name, complete=complete: complete)
        monkeypatch.setattr(process, "run", run)
        assert power.count_items(loaded) == {**asked, "arc_challenge": expected}


def test_plan_marks_limits_that_the_items_cannot_decide() -> None:
    from rich.console import Console

    drops = {"2%": 0.02, "4%": 0.03, "10%": 0.05}
    row = plan.Decided(
        task="t", items=100, smallest_drop=drops, limits={"int8": 0.01, "int4": 0.05}
    )
    console = Console(width=200)
    with console.capture() as printed:
        console.print(plan._power_table(plan.Plan.model_construct(decided=[row])))
    assert "int8 1.00% undecidable, int4 5.00%" in printed.get()


def test_plan_says_why_no_pass_can_come(root: Path) -> None:
    """Too few windows asked for, or too few in the text, which another setting mends."""
    loaded = recipe.load("tiny")

    def with_windows(count: int, rare: float) -> recipe.Recipe:
        divergence = loaded.evaluate.divergence.model_copy(update={"windows": count})
        evaluate = loaded.evaluate.model_copy(update={"divergence": divergence})
        return loaded.model_copy(
            update={"evaluate": evaluate, "gate": loaded.gate.model_copy(update={"rare": rare})}
        )

    assert plan.no_pass(with_windows(150, 0.02), 150) == ""
    assert "asks for 149. Set evaluate.divergence.windows (and" in plan.no_pass(
        with_windows(24, 0.02), 24
    )
    few = plan.no_pass(with_windows(150, 0.02), 14)
    assert "14 windows are compared" in few
    assert (
        "A text has no more of 256 tokens: shorter windows cost no more (evaluate.perplexity.window"
        " of about 24)" in few
    )
