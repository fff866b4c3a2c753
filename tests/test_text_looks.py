"""A sequential gate looks at the texts' windows in parts: a FAIL may come early, a PASS takes all
of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import gate, paths, report
from pipeline.evaluation import text
from pipeline.gate import texts
from pipeline.recipe import first_windows
from pipeline.records import Checkpoint, Evaluation, Task, Verdict, View, joined, read
from pipeline.runtime import process
from pipeline.stages import evaluate
from pipeline.stages import gate as gate_stage
from tests import evaluations as make
from tests import measured
from tests.test_looks import cut
from tests.test_text_measure import OURS, PLAN, TEXTS, THEIRS, Tabled, decode

LOOKS = [0.2, 0.4, 0.6, 0.8, 1.0]
WINDOWS = 60
NLL = np.random.default_rng(0).normal(64, 6, WINDOWS)
SCORES = np.ones(3000)
SCORES_100 = np.ones(100)
PLAN_60 = make.Plan(positions=WINDOWS * make.TOKENS, windows=WINDOWS)
COMPARED = PLAN_60.chosen(WINDOWS)


def test_every_window_is_scored_once_and_in_the_end_all_are(tmp_path: Path) -> None:
    text.write_reference(Tabled(THEIRS), TEXTS, PLAN, tmp_path)
    scored: list[list[int]] = []

    def part(wanted: text.Wanted) -> text.Measured:
        scored.append(wanted(48))
        return text.measure(Tabled(OURS), TEXTS, PLAN, tmp_path, decode, "test", wanted)

    found = list(text.grown(part, LOOKS, seed=3))
    assert sorted(window for windows in scored for window in windows) == list(range(48))
    for fraction, seen in zip(LOOKS, found, strict=True):
        assert [window.index for window in seen.perplexity[0].windows] == first_windows(
            48, fraction, 3
        )
    whole = text.measure(
        Tabled(OURS), TEXTS, PLAN, tmp_path, decode, "test", lambda count: list(range(count))
    )
    assert found[-1].perplexity == whole.perplexity
    assert found[-1].divergence[0].windows == whole.divergence[0].windows
    assert [worst.kl_nats for worst in found[-1].divergence[0].worst] == [
        worst.kl_nats for worst in whole.divergence[0].worst
    ]


def limits(**change: Any) -> gate.Limits:
    return make.limits(sequential=True, divergence=PLAN_60, quantized=False, **change)


def looked(nll: np.ndarray, kl: np.ndarray, fraction: float) -> Evaluation:
    """Measured as served at the first windows and nothing else."""
    indices = first_windows(WINDOWS, fraction, 0)
    view = View(
        settings={},
        perplexity=[make.perplexity(nll, indices)],
        divergence=[make.divergence(kl[indices], indices)],
    )
    return make.evaluation({"deployed": view}, [])


def outcome(nll: np.ndarray, kl: np.ndarray, fraction: float) -> gate.Verdict:
    return gate.decide(
        make.reference(NLL, [make.draws(SCORES)]), looked(nll, kl, fraction), None, limits()
    )


def small(size: float) -> np.ndarray:
    return np.abs(np.random.default_rng(1).normal(size, size / 5, (WINDOWS, make.TOKENS)))


def test_what_is_far_beyond_a_limit_fails_at_the_first_look() -> None:
    verdict = outcome(NLL + 40, small(1.0), 0.2)
    assert verdict.status == "FAIL"
    assert {check.name.split()[1] for check in verdict.checks} == {"deployed"}
    assert {check.n for check in verdict.checks} == {12}
    assert "look 1 of 5" in verdict.checks[0].method
    assert texts.beyond(make.reference(NLL, []), looked(NLL + 40, small(1.0), 0.2).views, limits())


@pytest.mark.parametrize("fraction", LOOKS[:-1])
def test_a_part_of_the_windows_is_never_a_pass(fraction: float) -> None:
    verdict = outcome(NLL, small(1e-6), fraction)
    assert verdict.status == "INCONCLUSIVE"
    assert "a PASS takes all windows" in verdict.checks[0].reason
    assert not texts.beyond(
        make.reference(NLL, []), looked(NLL, small(1e-6), fraction).views, limits()
    )


@pytest.mark.parametrize("change", ["one window less", "other windows", "not sequential"])
def test_windows_of_no_look_fail(change: str) -> None:
    found = looked(NLL, small(1e-6), 0.2)
    view, held_to = found.views["deployed"], limits()
    windows = view.perplexity[0].windows
    if change == "one window less":
        found = make.with_view(
            found,
            "deployed",
            perplexity=[view.perplexity[0].model_copy(update={"windows": windows[1:]})],
        )
    elif change == "other windows":
        indices = list(range(12))
        found = make.with_view(
            found,
            "deployed",
            perplexity=[make.perplexity(NLL, indices)],
            divergence=[make.divergence(small(1e-6)[indices], indices)],
        )
    else:
        held_to = make.limits(divergence=PLAN_60)
    assert (
        gate.decide(make.reference(NLL, [make.draws(SCORES)]), found, None, held_to).status
        == "FAIL"
    )


def test_all_windows_pass_as_without_looks_and_what_is_not_finite_ends_at_once() -> None:
    kl = small(1e-6)
    whole = make.candidate(NLL, [make.draws(SCORES)], kl, plan=PLAN_60)
    theirs = make.reference(NLL, [make.draws(SCORES)])
    for held_to in (limits(), make.limits(divergence=PLAN_60)):
        verdict = gate.decide(theirs, whole, None, held_to)
        assert verdict.status == "PASS"
        assert len(verdict.checks) == 8 + 2
    bad = np.where(np.arange(WINDOWS) == first_windows(WINDOWS, 0.2, 0)[3], np.nan, NLL)
    assert texts.beyond(theirs, looked(bad, kl, 0.2).views, limits())
    assert outcome(bad, kl, 0.2).status == "FAIL"


@pytest.mark.parametrize(
    ("over", "most", "share"), [(0.0, 0.05, 1.0), (0.5, 1.0, 0.75), (1.5, 1.0, 0.45)]
)
def test_false_fails_stay_at_the_confidence_and_bad_artifacts_end_early(
    over: float, most: float, share: float
) -> None:
    """`over`: standard deviations of a window's difference by which the artifact is worse than the
    limit allows."""
    rng, held_to, draws, spread = np.random.default_rng(7), limits(), 150, 3.0
    theirs, kl = make.reference(NLL, []), small(1e-6)
    at_limit = np.log(held_to.perplexity_ratio) * make.TOKENS
    failed, used = 0, 0.0
    for _ in range(draws):
        nll = NLL + at_limit + over * spread + rng.normal(0, spread, WINDOWS)
        ended = next(
            (part for part in LOOKS if texts.beyond(theirs, looked(nll, kl, part).views, held_to)),
            None,
        )
        failed += ended is not None
        used += ended or 1.0
    assert failed / draws <= most + 2 * np.sqrt(most * (1 - most) / draws)
    assert used / draws <= share


class Engine:
    """A session that answers with the texts' looks, then with the items that it was asked for, then
    with everything; keeps what it is asked."""

    asked: list[Any]
    texts: list[dict[str, Any]]
    whole: dict[str, Any]
    anonymous_bytes, processor_s = 1, 1.0

    def __init__(
        self, environment: str, verb: str, job: dict[str, Any], request: Path, offline: bool
    ) -> None:
        assert (environment, verb) == ("openvino", "evaluate")
        assert len(job["looks"]) == len(self.texts) + 1
        self._coming, self._first = iter(self.texts), job["spans"]
        self._items: list[Task] = []

    def ask(self, question: dict[str, Any] | None = None) -> dict[str, Any]:
        self.asked.append(question)
        if (looked := next(self._coming, None)) is not None:
            return looked
        spans = (question or {}).get("spans", {} if self._items else self._first)
        more = [cut(name, SCORES_100, *span) for name, span in spans.items()]
        self._items = joined(self._items, more)
        views = {"deployed": self.whole["views"]["deployed"]} if spans else self.whole["views"]
        tasks = [task.model_dump() for task in self._items]
        return self.whole | {"views": views, "tasks": tasks}

    def close(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("worse", "limit", "spans"),
    [(0.0, 0.2, []), (0.0, 0.03, [(20, 40), (40, 60)]), (40.0, 0.03, None)],
)
def test_the_stage_measures_what_decides_in_one_session(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    worse: float,
    limit: float,
    spans: list[tuple[int, int]] | None,
) -> None:
    """Without a change 80 items show less than 20 points and 240 less than 3 (bounds z^2 / (n +
    z^2)); texts that fail end it at their first look."""
    recipe = measured.build()
    path = paths.recipe("tiny")
    by_kind = f"{{bf16: {limit}, int8: {limit}, int4: {limit}, int2: {limit}}}"
    others = [line for line in path.read_text().splitlines() if "  accuracy_drop:" not in line]
    gate_keys = f"gate:\n  sequential: true\n  accuracy_drop: {by_kind}\n"
    path.write_text("\n".join([*others, ""]).replace("gate:\n", gate_keys, 1))
    stored, theirs = (
        read(paths.evaluation("tiny", "ov-int8"), Evaluation),
        read(paths.evaluation("tiny", "reference"), Evaluation),
    )
    nll = np.array([window.nll_nats for window in theirs.views["reference"].perplexity[0].windows])
    compared = recipe.evaluate.divergence.chosen(20)
    places = len(recipe.evaluate.divergence.places(20, make.TOKENS, 1))

    def answer(fraction: float) -> dict[str, Any]:
        indices = first_windows(20, fraction, recipe.evaluate.seed)
        kept = [window for window in compared if window in indices]
        own = {"text_sha256": theirs.views["reference"].perplexity[0].text_sha256}
        perplexity = make.perplexity(nll + worse, indices).model_copy(update=own)
        divergence = make.divergence(np.full((len(kept), places), 1e-4), kept).model_copy(
            update=own
        )
        views = {
            "deployed": View(
                settings=make.OPENVINO_SETTINGS, perplexity=[perplexity], divergence=[divergence]
            )
        }
        return told(make.evaluation(views, []))

    def told(found: Evaluation) -> dict[str, Any]:
        return found.model_dump(include={"versions", "load_check", "views", "tasks"})

    monkeypatch.setattr(Engine, "asked", [], raising=False)
    monkeypatch.setattr(Engine, "texts", [answer(fraction) for fraction in LOOKS[:-1]], False)
    monkeypatch.setattr(Engine, "whole", told(stored), raising=False)
    monkeypatch.setattr(process, "Session", Engine)
    monkeypatch.setattr(
        evaluate.checkpoint,
        "open_pinned",
        lambda *_: (Path("source"), read(paths.checkpoint("tiny"), Checkpoint)),
    )
    evaluate.run("tiny", "ov-int8")
    more = [{"spans": dict.fromkeys(recipe.evaluate.tasks, span)} for span in spans or []]
    assert Engine.asked == ([None] if spans is None else [None, *[{}] * 4, *more, {}])
    found = read(paths.evaluation("tiny", "ov-int8"), Evaluation)
    assert found.failure is None
    assert {len(task.items) for task in found.tasks} == (
        set() if spans is None else {20 + 20 * len(spans)}
    )
    gate_stage.run("tiny", "ov-int8")  # a session of its own would not be one of evaluate's
    verdict = read(paths.verdict("tiny", "ov-int8"), Verdict)
    assert verdict.status == ("FAIL" if worse else "PASS")
    assert len(verdict.looks) == (0 if spans is None else 1 + len(spans))
    report.write(recipe)
    page = paths.report("tiny", "html").read_text()
    assert ("look 1 of 5" in page) == bool(worse)
