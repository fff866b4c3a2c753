"""What the gate decides: three outcomes, and every way in which a measurement that is not there in
full must not pass."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline import gate, recipe
from pipeline.gate import limits as gate_limits
from pipeline.recipe import Divergence as Plan
from pipeline.records import Evaluation, Verdict
from tests import evaluations as make
from tests.conftest import ROOT

KINDS = ("perplexity_ratio", "mean_kl", "p99_kl", "top1_agreement")
pytestmark = pytest.mark.usefixtures("quick_gate")


@pytest.fixture(scope="module")
def nll() -> np.ndarray:
    return np.random.default_rng(0).normal(64, 6, make.WINDOWS)


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    return (np.random.default_rng(1).random(3000) < 0.8).astype(float)


@pytest.fixture(scope="module")
def theirs(nll: np.ndarray, scores: np.ndarray) -> Evaluation:
    return make.reference(nll, [make.draws(scores)])


@pytest.fixture(scope="module")
def ours(nll: np.ndarray, scores: np.ndarray) -> Evaluation:
    return make.candidate(nll, [make.draws(scores)])


def decide(
    theirs: Evaluation, ours: Evaluation, floor: Evaluation | None = None, **change: object
) -> Verdict:
    return gate.decide(theirs, ours, floor, make.limits(**change))


def reasons(verdict: Verdict) -> str:
    return "\n".join(check.reason for check in verdict.checks if check.status != "PASS")


def test_an_artifact_as_good_as_the_reference_passes(theirs: Evaluation, ours: Evaluation) -> None:
    verdict = decide(theirs, ours)
    assert verdict.status == "PASS", reasons(verdict)
    texts = [f"{kind} {view} x" for view in ("deployed", "weights") for kind in KINDS]
    assert [check.name for check in verdict.checks] == [*texts, "accuracy_drop", "task_drop t"]
    assert [check.value for check in verdict.checks] == pytest.approx(
        [1, 0.001, 0.001, 1] * 2 + [0, 0]
    )
    assert [check.n for check in verdict.checks] == [20, *[16] * 7, 3000, 3000]
    assert (verdict.reference_sha256, verdict.candidate_sha256, verdict.variant) == (
        "reference",
        "v",
        "v",
    )


def test_the_same_evaluations_give_the_same_verdict_bit_for_bit(
    theirs: Evaluation, nll: np.ndarray, scores: np.ndarray
) -> None:
    kl = np.random.default_rng(5).exponential(0.01, make.SHAPE)
    once, again = (
        decide(theirs, make.candidate(nll + 1, [make.draws(scores)], kl)) for _ in range(2)
    )
    assert once.dumps() == again.dumps()


def test_the_worst_check_is_the_verdict(
    theirs: Evaluation, nll: np.ndarray, scores: np.ndarray
) -> None:
    unsure = np.resize([0.0, 0.045], make.SHAPE) * np.resize([0.2, 1.8], (len(make.COMPARED), 1))
    found = decide(theirs, make.candidate(nll, [make.draws(scores)], unsure), p99_kl=1.0)
    assert found.status == "INCONCLUSIVE", reasons(found)
    found = decide(
        theirs, make.candidate(nll, [make.draws(make.flipped(scores, 300))], unsure), p99_kl=1.0
    )
    assert found.status == "FAIL"


def test_an_artifact_that_could_not_be_measured_fails(theirs: Evaluation, ours: Evaluation) -> None:
    broken = ours.model_copy(update={"failure": "vLLM refused it", "views": {}, "tasks": []})
    verdict = decide(theirs, broken)
    assert verdict.status == "FAIL"
    assert reasons(verdict) == "vLLM refused it"
    # A failure is believed even if there are good numbers beside it.
    assert decide(theirs, ours.model_copy(update={"failure": "crashed"})).status == "FAIL"


def test_measured_against_another_reference(theirs: Evaluation, ours: Evaluation) -> None:
    verdict = decide(theirs, ours.model_copy(update={"logprobs_sha256": "another"}))
    assert verdict.status == "FAIL"
    assert "another reference" in reasons(verdict)


def without_text(found: Evaluation, view: str, part: str) -> Evaluation:
    return make.with_view(found, view, **{part: []})


@pytest.mark.parametrize("view", ["deployed", "weights"])
def test_a_view_or_a_text_that_is_missing_fails(
    theirs: Evaluation, ours: Evaluation, view: str
) -> None:
    broken = {
        "view": ours.model_copy(
            update={"views": {name: v for name, v in ours.views.items() if name != view}}
        ),
        "perplexity": without_text(ours, view, "perplexity"),
        "divergence": without_text(ours, view, "divergence"),
        "another text": make.with_view(
            ours,
            view,
            perplexity=[
                p.model_copy(update={"text_sha256": "other"}) for p in ours.views[view].perplexity
            ],
        ),
        "another text compared": make.with_view(
            ours,
            view,
            divergence=[
                d.model_copy(update={"text_sha256": "other"}) for d in ours.views[view].divergence
            ],
        ),
    }
    for name, candidate in broken.items():
        verdict = decide(theirs, candidate)
        failed = [check.name for check in verdict.checks if check.status != "PASS"]
        assert (verdict.status, failed) == ("FAIL", [f"{view} x"]), name
        assert "not measured in this view" in reasons(verdict), name


def test_one_of_two_texts_missing_fails(nll: np.ndarray, scores: np.ndarray) -> None:
    """Two texts share the positions: every second of each window is compared."""
    compared, tasks, tokens = make.COMPARED, [make.draws(scores)], 64
    plan = Plan(positions=16 * tokens, windows=16)
    assert list(plan.places(make.WINDOWS, tokens, 2)) == list(range(0, tokens, 2))
    two = [make.perplexity(nll, list(range(20)), tokens, text) for text in "xy"]
    few = [make.perplexity(nll, compared, tokens, text) for text in "xy"]
    kl = [make.divergence(np.full((16, tokens // 2), 0.001), compared, text=text) for text in "xy"]
    settings = {"settings": {}, "divergence": kl}
    theirs = make.evaluation(
        {"reference": make.View(settings={}, perplexity=two, divergence=[])}, tasks
    )
    ours = make.evaluation(
        {
            "deployed": make.View(perplexity=two, **settings),
            "weights": make.View(perplexity=few, **settings),
        },
        tasks,
    )
    assert decide(theirs, ours, divergence=plan, texts=("x", "y")).status == "PASS"
    for view, part in (("deployed", "perplexity"), ("weights", "divergence")):
        left = make.with_view(ours, view, **{part: getattr(ours.views[view], part)[:1]})
        verdict = decide(theirs, left, divergence=plan, texts=("x", "y"))
        assert [check.name for check in verdict.checks if check.status != "PASS"] == [f"{view} y"]


@pytest.mark.parametrize("view", ["deployed", "weights"])
def test_windows_that_are_not_all_there_fail(
    theirs: Evaluation, ours: Evaluation, view: str
) -> None:
    text, distance = ours.views[view].perplexity[0], ours.views[view].divergence[0]
    windows, compared = text.windows, distance.windows
    short = compared[0].model_copy(update={"kl_nats": compared[0].kl_nats[1:]})
    other_tokens = [window.model_copy(update={"tokens": window.tokens - 1}) for window in windows]
    other_places = [window.model_copy(update={"index": window.index + 1}) for window in compared]
    broken = {
        "window missing": ("perplexity", text, windows[:-1], "windows were scored"),
        "windows swapped": (
            "perplexity",
            text,
            [windows[1], windows[0], *windows[2:]],
            "windows were scored",
        ),
        "window twice": ("perplexity", text, [windows[0], *windows], "windows were scored"),
        "no window": ("perplexity", text, [], "0 windows were scored"),
        "other token count": ("perplexity", text, other_tokens, "other numbers of tokens"),
        "compared window missing": (
            "divergence",
            distance,
            compared[:-1],
            "15 windows were compared, expected 16",
        ),
        "other windows compared": ("divergence", distance, other_places, "windows were compared"),
        "no window compared": ("divergence", distance, [], "0 windows were compared"),
        "position missing": ("divergence", distance, [short, *compared[1:]], "not all positions"),
    }
    for name, (part, record, rows, words) in broken.items():
        verdict = decide(
            theirs,
            make.with_view(ours, view, **{part: [record.model_copy(update={"windows": rows})]}),
        )
        assert verdict.status == "FAIL", name
        assert words in reasons(verdict), name


# Every second position of each window; fewer than a recipe may ask for, so made without its checks.
FEWER = Plan.model_construct(positions=8 * make.TOKENS, windows=16)


def test_less_than_the_recipe_asks_to_compare_fails(theirs: Evaluation, ours: Evaluation) -> None:
    """Whether fewer windows, or fewer positions in each; more than it asks is as much another
    measurement."""
    for plan, words in (
        (Plan(positions=17 * make.TOKENS, windows=17), "16 windows were compared, expected 17"),
        (FEWER, "not all positions"),
    ):
        verdict = decide(theirs, ours, divergence=plan)
        assert (verdict.status, words in reasons(verdict)) == ("FAIL", True)
    half = make.candidate(
        np.array([w.nll_nats for w in theirs.views["reference"].perplexity[0].windows]),
        ours.tasks,
        plan=FEWER,
    )
    verdict = decide(theirs, half)
    assert (verdict.status, "not all positions" in reasons(verdict)) == ("FAIL", True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("view", ["deployed", "weights"])
def test_what_is_not_finite_fails(
    theirs: Evaluation, nll: np.ndarray, scores: np.ndarray, view: str, value: float
) -> None:
    tasks, kl = [make.draws(scores)], np.full(make.SHAPE, 0.001)
    broken_nll, broken_kl = nll.copy(), kl.copy()
    broken_nll[make.COMPARED[4]] = broken_kl[3, 7] = value
    good, bad = make.candidate(nll, tasks, kl), make.candidate(broken_nll, tasks, broken_kl)
    for part in ("perplexity", "divergence"):
        verdict = decide(
            theirs, make.with_view(good, view, **{part: getattr(bad.views[view], part)})
        )
        assert verdict.status == "FAIL"
        assert "NaN or infinite" in reasons(verdict)
        assert [tails.view for tails in verdict.tails] == [
            v for v in good.views if part == "perplexity" or v != view
        ]
    assert decide(make.reference(broken_nll, tasks), good).status == "FAIL"
    assert decide(make.reference(broken_nll, tasks), bad).status == "FAIL"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_probability_that_is_not_finite_fails(
    theirs: Evaluation, ours: Evaluation, value: float
) -> None:
    distance = ours.views["weights"].divergence[0]
    first = distance.windows[0].model_copy(
        update={"probability_change": [value, *distance.windows[0].probability_change[1:]]}
    )
    broken = [distance.model_copy(update={"windows": [first, *distance.windows[1:]]})]
    verdict = decide(theirs, make.with_view(ours, "weights", divergence=broken))
    assert [check.name for check in verdict.checks if check.status != "PASS"] == ["weights x"]
    assert [tails.view for tails in verdict.tails] == ["deployed"]


def test_an_empty_reference_fails(theirs: Evaluation, ours: Evaluation) -> None:
    empty = make.with_view(theirs, "reference", perplexity=[])
    no_window = make.with_view(
        theirs,
        "reference",
        perplexity=[theirs.views["reference"].perplexity[0].model_copy(update={"windows": []})],
    )
    for name, broken in {
        "no view": theirs.model_copy(update={"views": {}}),
        "no text": empty,
        "no window": no_window,
        "no task": theirs.model_copy(update={"tasks": []}),
    }.items():
        assert decide(broken, ours).status == "FAIL", name
    nothing = ours.model_copy(update={"views": {}, "tasks": []})
    assert decide(theirs.model_copy(update={"views": {}, "tasks": []}), nothing).status == "FAIL"


def test_too_few_positions_cannot_bound_a_percentile(nll: np.ndarray, scores: np.ndarray) -> None:
    """All of 256 values, of a short text, lie below the 99th percentile more often than once in
    twenty: 0.99 ** 256 = 7.6 %."""
    plan, tasks = Plan(positions=512, windows=16), [make.draws(scores)]
    short = nll[:8]
    verdict = decide(
        make.reference(short, tasks), make.candidate(short, tasks, plan=plan), divergence=plan
    )
    assert [check.name for check in verdict.checks if check.status != "PASS"] == [
        "p99_kl deployed x",
        "p99_kl weights x",
    ]
    assert (verdict.status, "many more windows" in reasons(verdict)) == ("INCONCLUSIVE", True)


def test_one_window_cannot_pass(scores: np.ndarray) -> None:
    one, tasks = np.array([64.0]), [make.draws(scores)]
    verdict = decide(make.reference(one, tasks), make.candidate(one, tasks, 0.0))
    assert verdict.status == "INCONCLUSIVE"
    for name in ("perplexity_ratio", "mean_kl", "p99_kl", "top1_agreement"):
        found = next(check for check in verdict.checks if check.name == f"{name} deployed x")
        assert (found.status, found.n) == ("INCONCLUSIVE", 1)
        assert "many more windows would decide it; 1 were scored" in found.reason


def test_limits_of_a_recipe(root: object) -> None:
    loaded = recipe.load("tiny")
    found = gate_limits.of(loaded, loaded.variants["ov-int4"])
    assert (found.perplexity_ratio, found.mean_kl, found.p99_kl) == (1.03, 0.02, 0.3)
    assert (found.top1_agreement, found.accuracy_drop, found.task_drop) == (0.86, 0.03, 0.06)
    assert (found.length_ratio, found.confidence, found.divergence.positions) == (
        (0.9, 1.1),
        0.95,
        16320,
    )
    assert found.items["world_facts"] == ("all", "all")
    assert (found.quantized, found.fractions) == (True, (1.0,))
    assert not gate_limits.of(loaded, loaded.variants["ov-bf16"]).quantized


def test_caps_count_with_extension_alone(project: object) -> None:
    text = (ROOT / "recipes" / "tiny.yaml").read_text()
    every = "{world_facts: all, world_sums: all, world_sentences: all, world_answers: all}"
    assert every in text
    text = text.replace(every, "{world_facts: 100}").replace(
        "  task_path", "  extend_to: {world_facts: 800}\n  task_path"
    )
    for more, items, looks in (("", (100, 100), 1), ("  on_inconclusive: extend\n", (100, 800), 4)):
        recipe.paths.recipe("tiny").write_text(text.replace("gate:\n", f"gate:\n{more}"))
        loaded = recipe.load("tiny")
        found = gate_limits.of(loaded, loaded.variants["ov-int4"])
        assert (found.items["world_facts"], len(found.fractions)) == (items, looks)
