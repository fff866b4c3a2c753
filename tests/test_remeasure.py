"""What is measured again and compared: within the engine's own noise it holds, beyond it the
approval is refused."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pipeline import cli
from pipeline.errors import SignoffError
from pipeline.recipe import Recipe
from pipeline.records import Evaluation, Remeasured
from pipeline.release.signoff import commands, drawing, log, remeasure
from tests import evaluations as make
from tests.release import ADA, PASS, key

NLL = np.random.default_rng(0).normal(64, 6, make.WINDOWS)
REFERENCE = make.reference(NLL, [make.draws(np.ones(200))])
KL, FLOOR_KL = 0.005, 0.0005


def scored(kl: float, nll: float = 0.0, wrong: int = 0) -> Evaluation:
    """An evaluation with this mean KL in each window, nats more in each, and wrong answers to the
    first items."""
    return make.candidate(NLL + nll, [make.draws(np.where(np.arange(200) < wrong, 0.0, 1.0))], kl)


FLOOR = scored(FLOOR_KL, 0.001, wrong=1)


def again(found: Evaluation) -> remeasure.Again:
    return remeasure.Again(found.views, found.tasks)


def test_the_same_holds_whatever_part_was_measured() -> None:
    recorded = scored(KL, 0.1, wrong=3)
    some = recorded.tasks[0].model_copy(update={"items": recorded.tasks[0].items[50:80]})
    found = remeasure.held(
        "a/b", recorded, again(recorded)._replace(tasks=[some]), FLOOR, REFERENCE
    )
    assert (found.windows, found.items, found.changed_items) == (make.WINDOWS, 30, 0)
    assert set(found.of_noise.values()) == {0.0}


@pytest.mark.parametrize(
    ("here", "holds"),
    [
        (scored((KL**0.5 + 1.9 * FLOOR_KL**0.5) ** 2, 0.1), True),
        (scored((KL**0.5 + 2.1 * FLOOR_KL**0.5) ** 2, 0.1), False),
        (scored(KL / 100, 0.1), False),
        (scored(100 * KL, 0.1), False),
        (scored(KL, 0.1 + 0.0019), True),
        (scored(KL, 0.1 + 0.0021), False),
        (scored(KL, 0.1, wrong=3), True),
        (scored(KL, 0.1, wrong=30), False),
        (scored(float("nan"), 0.1), False),
        (scored(KL, float("nan")), False),
    ],
)
def test_what_the_engines_noise_explains_holds_and_no_more(here: Evaluation, holds: bool) -> None:
    """The unquantized model's KL is 0.0005, its windows are 0.001 nats off, and it changes one of
    200 items."""
    recorded = scored(KL, 0.1)
    if holds:
        worst = remeasure.held("a/b", recorded, again(here), FLOOR, REFERENCE).of_noise
        assert max(worst.values()) <= 1
    else:
        with pytest.raises(
            SignoffError, match="measured again here, it is not what the evaluation says: "
        ):
            remeasure.held("a/b", recorded, again(here), FLOOR, REFERENCE)


def test_each_position_is_compared_and_each_top_token() -> None:
    """Whoever keeps the mean and moves the rest does not pass."""
    values = np.full(make.SHAPE, KL)
    values[:, ::2], values[:, 1::2] = 2 * KL, 0.0
    with pytest.raises(SignoffError, match="a/b: deployed root of KL: "):
        remeasure.held(
            "a/b",
            scored(KL),
            again(make.candidate(NLL, scored(KL).tasks, values)),
            FLOOR,
            REFERENCE,
        )
    for others, holds in ((2, True), (3, False)):
        same = np.full(make.SHAPE[0], make.TOKENS - others)
        here = again(make.candidate(NLL, scored(KL).tasks, KL, same))
        if holds:
            assert (
                remeasure.held("a/b", scored(KL), here, FLOOR, REFERENCE).of_noise[
                    "deployed top tokens"
                ]
                == 1
            )
        else:
            with pytest.raises(SignoffError, match="a/b: deployed top tokens: "):
                remeasure.held("a/b", scored(KL), here, FLOOR, REFERENCE)


def test_a_window_or_an_item_that_was_not_recorded_is_refused() -> None:
    recorded = scored(KL)
    view = recorded.views["deployed"]
    fewer = [text.model_copy(update={"windows": text.windows[1:]}) for text in view.perplexity]
    less = recorded.model_copy(
        update={
            "views": {**recorded.views, "deployed": view.model_copy(update={"perplexity": fewer})}
        }
    )
    with pytest.raises(
        SignoffError,
        match=(
            r"a/b: deployed negative log-likelihood: .*: window 0 of 'x' lies nan from what is"
            r" recorded"
        ),
    ):
        remeasure.held("a/b", less, again(recorded), FLOOR, REFERENCE)
    other = recorded.tasks[0].model_copy(
        update={"items": [recorded.tasks[0].items[0].model_copy(update={"tokens_hash": "another"})]}
    )
    with pytest.raises(SignoffError, match="document 1000 of t is another question"):
        remeasure.held("a/b", recorded, again(recorded)._replace(tasks=[other]), FLOOR, REFERENCE)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 1.0])
def test_what_is_drawn_is_that_share_and_at_least_one(share: float) -> None:
    rng = random.Random(0)
    for count in (1, 7, 200):
        wanted = max(1, -(-round(share * count * 1000) // 1000))
        picked = drawing.some(list(range(count)), share, rng)
        start, stop = drawing.span(count, share, rng)
        assert len(set(picked)) == stop - start == wanted
        assert 0 <= start < stop <= count
    assert drawing.some([], share, rng) == []


@pytest.mark.usefixtures("quick_gate")
@pytest.mark.parametrize("share", ["0", "1.5", "-0.1", "nan"])
def test_a_share_is_one(measured: Recipe, capsys: pytest.CaptureFixture[str], share: str) -> None:
    assert (
        cli.main(["signoff", "approve", *PASS, "--key", key(ADA), f"--remeasure={share}"])
        == SignoffError.exit_code
    )
    assert (
        f"--remeasure: found {float(share)}, expected a share of the evaluation"
        in capsys.readouterr().err
    )


@pytest.mark.usefixtures("quick_gate")
def test_an_approval_without_is_written_as_before(measured: Recipe) -> None:
    """Logs of earlier versions, which had no such key, are still read; one that has it too."""
    commands.request(*PASS, None)
    commands.approve(*PASS, key(ADA), [], "", None)
    entries = log.read(*PASS)
    assert all("remeasured" not in entry.statement["predicate"] for _, entry in entries)
    found = Remeasured(
        seed=7, share=0.1, windows=14, items=120, changed_items=1, of_noise={"deployed nll": 0.25}
    )
    where = log.path(*PASS)
    request = entries[0][0].model_copy(
        update={"remeasured": found, "previous": log.last(where.read_text())}
    )
    log.append(request, None, {})
    assert log.read(*PASS)[-1][0].remeasured == found
