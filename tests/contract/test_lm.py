"""Our lm-eval model against lm-eval's own hf back-end: two ways to the same numbers."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from pipeline.runtime import environments
from tests.conftest import ROOT

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("lm") / "found.json"
    command = [
        str(environments.python("openvino")),
        "-m",
        "tests.contract.lm_probe",
        "recipes/tiny/checkpoint",
        str(out),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def test_every_item_scores_the_same(found: dict[str, Any]) -> None:
    assert found["ours"] == found["theirs"]
    assert [len(items) for items in found["ours"].values()] == [40, 40]


def test_log_likelihoods_and_greedy_answers_agree(found: dict[str, Any]) -> None:
    for (ours, greedy), (theirs, expected) in zip(
        found["pairs"], found["their_pairs"], strict=True
    ):
        assert ours == pytest.approx(theirs, abs=1e-3)
        assert greedy == expected
    assert [greedy for _, greedy in found["pairs"]] == [True, False]


def test_rolling_log_likelihood_agrees_on_a_text_of_one_window(found: dict[str, Any]) -> None:
    assert found["rolling"][0] == pytest.approx(found["their_rolling"][0], rel=1e-4)


def test_generation_stops_at_the_stop_string(found: dict[str, Any]) -> None:
    assert found["generated"] == [" 30"]


def test_one_filter_and_the_metric_that_there_is_are_scored(found: dict[str, Any]) -> None:
    """Of two filters over one answer the recipe's; of a task without acc its acc_norm."""
    metric, name, scores = found["others"]["two_filters"]
    assert (metric, name, len(scores)) == ("exact_match", "flexible-extract", 8)
    metric, name, scores = found["others"]["only_acc_norm"]
    assert (metric, name, len(scores)) == ("acc_norm", "none", 8)
    assert sum(scores) >= 4


def test_a_prompt_is_cut_with_a_count_and_never_to_nothing(found: dict[str, Any]) -> None:
    before, last_token_left, after, nothing_left, end = found["cut"]
    assert last_token_left == ""
    assert (after, end) == (before + 1, after)
    assert "up to 255 tokens (max_gen_toks), of 255" in nothing_left
