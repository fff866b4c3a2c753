"""The gate stage draws items look by look: when it goes on, what it asks for, what it keeps. The
engine is a stand-in here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import paths, recipe, report
from pipeline.errors import EvaluationError, WorkerCrashed
from pipeline.evidence import current, opened
from pipeline.evidence.candidate import Candidate
from pipeline.records import Evaluation, Extension, Verdict, read
from pipeline.runtime import process
from pipeline.stages import gate as gate_stage
from pipeline.stages import measuring
from tests import evaluations as make
from tests import measured

VARIANT = "ov-int8"
Spans = dict[str, list[int]]


class Engine:
    """Answers with the items of the spans, of an artifact whose scores are given; dies at the
    question `dies_at`."""

    asked: list[Spans]
    scores: np.ndarray
    dies_at: int | None

    def __init__(
        self, environment: str, verb: str, job: dict[str, Any], request: Path, offline: bool
    ) -> None:
        assert (environment, verb, job["spans"]) == ("openvino", "extend", {})

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        if len(self.asked) == self.dies_at:
            raise WorkerCrashed("killed")
        self.asked.append(question["spans"])
        tasks = [cut(name, self.scores, *span) for name, span in question["spans"].items()]
        return {"versions": {}, "tasks": [task.model_dump() for task in tasks], "wall_s": 1.0}

    def close(self) -> None: ...


def cut(name: str, scores: np.ndarray, start: int, stop: int) -> Any:
    task = make.draws(scores, name)
    return task.model_copy(update={"items": task.items[start:stop]})


@pytest.fixture
def engine(project: Path, monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    measured.build()
    monkeypatch.setattr(Engine, "asked", [], raising=False)
    monkeypatch.setattr(Engine, "scores", np.ones(100), raising=False)
    monkeypatch.setattr(Engine, "dies_at", None, raising=False)
    monkeypatch.setattr(process, "Session", Engine)
    monkeypatch.setattr(gate_stage.checkpoint, "open_pinned", lambda *_: (Path("source"), None))
    return Engine


def gate(**settings: str) -> None:
    """Changes keys of the recipe's gate."""
    text = paths.recipe("tiny").read_text()
    for key, value in settings.items():
        lines = [line for line in text.splitlines() if not line.startswith(f"  {key}:")]
        text = (
            "\n".join(line if line != "gate:" else f"gate:\n  {key}: {value}" for line in lines)
            + "\n"
        )
    paths.recipe("tiny").write_text(text)


def measure(count: int, scores: np.ndarray) -> None:
    """The evaluation as it is after its first look: `count` items of each task."""
    path = paths.evaluation("tiny", VARIANT)
    found = read(path, Evaluation)
    found.model_copy(
        update={"tasks": [cut(task.name, scores, 0, count) for task in found.tasks]}
    ).write(path)


def decided() -> Verdict:
    gate_stage.run("tiny", VARIANT)
    return read(paths.verdict("tiny", VARIANT), Verdict)


def test_looks_go_on_until_they_decide(engine: type[Engine]) -> None:
    """400 items without a change: 80 and 160 of them cannot show less than 3 points, 240 can
    (bounds z^2 / (n + z^2))."""
    gate(sequential="true", accuracy_drop="{bf16: 0.03, int8: 0.03, int4: 0.03, int2: 0.03}")
    measure(20, np.ones(100))
    verdict = decided()
    assert verdict.status == "PASS"
    assert [look.items for look in verdict.looks] == [80, 160, 240]
    assert engine.asked == [
        dict.fromkeys(measured.recipe.load("tiny").evaluate.tasks, (20, 40)),
        dict.fromkeys(measured.recipe.load("tiny").evaluate.tasks, (40, 60)),
    ]
    kept = read(paths.extension("tiny", VARIANT), Extension)
    assert {len(task.items) for task in kept.tasks} == {40} and kept.wall_s == 2
    current.recheck(opened.candidate("tiny", VARIANT))
    report.write(recipe.load("tiny"))
    for suffix in ("html", "md"):
        said = paths.report("tiny", suffix).read_text()
        assert "Looks at the accuracy: 80 items INCONCLUSIVE (" in said
        assert "240 items PASS (" in said


def test_a_killed_gate_goes_on_after_its_last_finished_look(engine: type[Engine]) -> None:
    gate(sequential="true", accuracy_drop="{bf16: 0.03, int8: 0.03, int4: 0.03, int2: 0.03}")
    measure(20, np.ones(100))
    engine.dies_at = 1
    with pytest.raises(WorkerCrashed):
        gate_stage.run("tiny", VARIANT)
    engine.dies_at = None
    assert decided().status == "PASS"
    assert [span["world_sums"] for span in engine.asked] == [(20, 40), (40, 60)]
    assert len(engine.asked) == 2


def test_a_broken_artifact_fails_at_its_first_look(engine: type[Engine]) -> None:
    gate(sequential="true")
    measure(20, np.zeros(100))
    verdict = decided()
    assert (verdict.status, len(verdict.looks), engine.asked) == ("FAIL", 1, [])


def test_an_undecided_text_is_not_mended_by_items(engine: type[Engine]) -> None:
    gate(sequential="true", rare="0.001")
    measure(20, np.ones(100))
    assert (decided().status, engine.asked) == ("INCONCLUSIVE", [])


def test_futile_looks_are_not_taken(engine: type[Engine]) -> None:
    gate(sequential="true")
    scores = np.ones(100)
    scores[[3, 30]] = (
        0  # 4 of 80, then 8 of 160: 5 points against a limit of 1, and 3 in the guard-rail
    )
    engine.scores = scores
    measure(20, scores)
    verdict = decided()
    assert verdict.status != "PASS"
    assert len(engine.asked) < 4


def test_the_other_kind_of_gate_takes_what_was_measured(engine: type[Engine]) -> None:
    """A sequential gate's evaluation is completed for a gate that is not; whole evaluations serve a
    sequential one as they are."""
    gate(sequential="true")
    measure(20, np.ones(100))
    gate(sequential="false")
    decided()
    assert [span["world_sums"] for span in engine.asked] == [(20, 100)]
    decided()
    assert len(engine.asked) == 1  # what was added is kept
    gate(sequential="true")
    assert [look.items for look in decided().looks] == [80, 160, 240, 320, 400]
    assert len(engine.asked) == 1


def test_items_that_no_gate_asked_for_fail_and_stay_as_they_are(engine: type[Engine]) -> None:
    gate(sequential="true")
    measure(33, np.ones(100))
    assert (decided().status, engine.asked) == ("FAIL", [])


def test_other_versions_of_the_tools_are_refused(engine: type[Engine]) -> None:
    gate(sequential="true")
    measure(20, np.ones(100))
    path = paths.evaluation("tiny", VARIANT)
    read(path, Evaluation).model_copy(update={"versions": {"openvino": "1"}}).write(path)
    with pytest.raises(EvaluationError, match="this environment has"):
        gate_stage.run("tiny", VARIANT)


def test_the_first_look_is_what_evaluate_measures(engine: type[Engine]) -> None:
    for sequential, expected in (("true", 20), ("false", 100)):
        gate(sequential=sequential)
        loaded = recipe.load("tiny")
        job = measuring.evaluation_job(Candidate.here(loaded, VARIANT), Path("source"))
        assert job["spans"] == dict.fromkeys(loaded.evaluate.tasks, (0, expected))
