"""Side by side: a winner only where the figures can tell, like for like only where settings agree,
and plain recommendations."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.records import (
    Advice,
    ComparedRow,
    Comparison,
    SideBySide,
    Summary,
    Value,
    VariantSummary,
)
from pipeline.report import figures, like_for_like
from pipeline.report.comparison import winner
from pipeline.report.figures import Figure, Metric
from tests import timed_summaries as make

SPEED = Metric("speed", "Speed", "tokens/s", "higher")
LATENCY = Metric("latency", "Latency", "ms", "lower")


def section(found: Comparison, title: str) -> SideBySide:
    return next(section for section in found.sections if section.title.startswith(title))


def advice(found: Comparison, goal: str) -> Advice:
    return next(
        advice for advice in (*found.recommendations, *found.baselines) if advice.goal == goal
    )


def row(found: SideBySide, name: str) -> ComparedRow:
    return next(row for row in found.rows if row.variant == name)


def value(found: SideBySide, name: str, key: str) -> Value:
    known = row(found, name).values[key]
    assert known is not None
    return known


def typed(row: dict[str, Any]) -> VariantSummary:
    return VariantSummary.model_validate(row)


def with_variant(name: str, **how: Any) -> Summary:
    """The usual run with one variant as `how` says."""
    rows = make.variants()
    rows[name] = make.variant(name, **how)
    return make.summary(rows)


def test_a_winner_separates_from_every_other_row() -> None:
    apart = {"a": Figure(100, 98, 102), "b": Figure(90, 88, 92), "c": Figure(50, 40, 60)}
    assert winner(SPEED, apart, {})[0] == "a"
    assert winner(LATENCY, apart, {})[0] == "c"
    tie = winner(SPEED, {**apart, "wide": Figure(80, 50, 110)}, {})
    assert tie.winner is None  # b, the next, is told apart, but the third is not
    assert tie.reason.startswith("a and wide cannot be told apart")
    assert tie.leaders == ("a", "wide")
    assert "Behind them: b with 90 (88 to 92) tokens/s and c with 50" in tie.reason


def test_overlapping_intervals_have_no_winner_and_are_named() -> None:
    name, _, reason, _ = winner(
        SPEED, {"a": Figure(100, 95, 105), "b": Figure(96, 92, 100), "c": Figure(50, 49, 51)}, {}
    )
    assert name is None
    assert "a and b cannot be told apart (their intervals overlap)" in reason
    assert "c has" not in reason


def test_touching_intervals_do_not_separate() -> None:
    assert winner(SPEED, {"a": Figure(100, 95, 105), "b": Figure(90, 85, 95)}, {})[0] is None


def test_one_repeat_has_no_winner() -> None:
    name, _, reason, _ = winner(SPEED, {"a": Figure(200), "b": Figure(90)}, {})
    assert name is None
    assert "measured once, so without an interval" in reason


def test_size_wins_by_any_amount_and_memory_by_more_than_five_percent() -> None:
    assert winner(figures.SIZE, {"a": Figure(1.000001), "b": Figure(1.000002)}, {})[0] == "a"
    assert winner(figures.SIZE, {"a": Figure(1.0), "b": Figure(1.0)}, {})[0] is None
    assert winner(figures.MEMORY, {"a": Figure(1.0), "b": Figure(1.06)}, {})[0] == "a"
    name, _, reason, _ = winner(figures.MEMORY, {"a": Figure(1.0), "b": Figure(1.04)}, {})
    assert name is None
    assert "no more than 5% apart" in reason


def test_failed_requests_cannot_win() -> None:
    found = with_variant(
        "ov-int8", weights="int8", speed=900, kl=0.0005, failed=3, rounding=make.INT8
    ).comparison
    deployed = section(found, "As deployed")
    assert deployed.winners["tokens_per_s_at_1"] == "ov-int4"
    assert "ov-int8 is left out: 3 of 40 requests failed" in deployed.reasons["tokens_per_s_at_1"]
    assert deployed.winners["tokens_per_s_at_4"] == "ov-int8"  # nothing failed at that load
    assert value(deployed, "ov-int8", "tokens_per_s_at_1").median == 900  # shown all the same


def test_rows_timed_elsewhere_are_not_compared() -> None:
    rows = make.variants()
    rows["ov-int8"] = make.variant("ov-int8", weights="int8", speed=5000, rounding=make.INT8)
    rows["ov-int8"]["benchmark"]["device"] = "cuda"
    found = make.summary(rows).comparison
    deployed = section(found, "As deployed")
    assert deployed.winners["tokens_per_s_at_1"] == "ov-int4"
    assert (
        "ov-int8 is left out: timed on another device (cuda, not cpu)"
        in deployed.reasons["tokens_per_s_at_1"]
    )
    assert advice(found, "fastest").variant == "ov-int4"
    assert "ov-int8 (timed on another device (cuda, not cpu))" in advice(found, "fastest").reason
    assert (
        "ov-int8 is left out" not in deployed.reasons["size_mb"]
    )  # a size is the same on every machine


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("trace_sha256", "other", "trace of requests"), ("over", "http", "way to the engine")],
)
def test_other_requests_are_not_compared_either(key: str, value: str, words: str) -> None:
    rows = make.variants()
    rows["ov-int8"]["benchmark"][key] = value
    reason = section(make.summary(rows).comparison, "As deployed").reasons["tokens_per_s_at_4"]
    assert f"timed on another {words}" in reason


def test_as_deployed_has_every_variant_and_the_verdict() -> None:
    found = make.summary().comparison
    deployed = section(found, "As deployed")
    assert [one.variant for one in deployed.rows] == list(make.variants())
    damaged = row(deployed, "rounded-int2")
    assert (damaged.verdict, damaged.performance) == ("FAIL", "NOT MEASURED")
    assert damaged.values["tokens_per_s_at_1"] is None
    assert "rounded-int2 is left out: its verdict is FAIL" in deployed.reasons["size_mb"]
    assert row(deployed, "ov-int4").quality == {
        "perplexity_ratio": 1.006,
        "mean_kl": 0.006,
        "accuracy_drop": 0.006,
    }
    assert found.concurrency == 1
    keys = [metric.key for metric in deployed.metrics]
    assert keys == [
        "size_mb",
        "tokens_per_s_at_1",
        "tokens_per_s_at_4",
        "ttft_ms_at_1",
        "tpot_ms_at_1",
        "e2e_ms_at_1",
        "load_s",
        "peak_memory_gb",
        "cost_per_million_output_tokens",
        "goodput_at_0.8",
    ]


def test_cost_is_at_the_middle_utilisation_with_the_interval_of_the_throughput() -> None:
    deployed = section(make.summary().comparison, "As deployed")
    cost = value(deployed, "ov-int4", "cost_per_million_output_tokens")
    speed = value(deployed, "ov-int4", "tokens_per_s_at_4")
    assert speed.low is not None and speed.high is not None
    assert cost.median == pytest.approx(0.5e6 / (3600 * speed.median * 0.6))
    assert cost.low == pytest.approx(0.5e6 / (3600 * speed.high * 0.6))
    assert cost.high == pytest.approx(0.5e6 / (3600 * speed.low * 0.6))


def test_like_for_like_needs_two_engines_and_equal_bits_and_groups() -> None:
    found = make.summary().comparison
    titles = [section.title for section in found.sections]
    assert titles == [
        "As deployed",
        "Like for like: unquantized",
        "Like for like: 4-bit weights in groups of 128",
    ]
    matched_rows = found.sections[2]
    assert [one.variant for one in matched_rows.rows] == ["ov-int4", "gptq-int4", "awq-int4"]
    assert value(matched_rows, "ov-int4", "tokens_per_s_at_1").median == pytest.approx(
        270
    )  # its profile "matched"
    assert matched_rows.winners["tokens_per_s_at_1"] == "ov-int4"
    assert row(matched_rows, "ov-int4").quality == {
        "perplexity_ratio": 1.003,
        "mean_kl": 0.003,
        "accuracy_drop": None,
    }
    assert "All at the same precision: KV cache bfloat16, arithmetic bfloat16" in matched_rows.note
    assert "scheme: asymmetric (ov-int4 and awq-int4), symmetric (gptq-int4)" in matched_rows.note
    assert (
        "embedding and output layer: int8 (ov-int4), floats (gptq-int4 and awq-int4)"
        in matched_rows.note
    )
    assert "weights view" in matched_rows.note
    assert not any(
        "cost" in metric.key or "goodput" in metric.key for metric in matched_rows.metrics
    )


def test_other_groups_are_not_like_for_like_and_the_note_says_so() -> None:
    found = with_variant(
        "ov-int4", rounding=make.NNCF.model_copy(update={"group_size": 64})
    ).comparison
    assert [section.title for section in found.sections] == [
        "As deployed",
        "Like for like: unquantized",
    ]
    note = found.sections[0].note
    assert "No like-for-like section for int4: ov-int4 has 4-bit weights in groups of 64" in note
    assert "awq-int4 has 4-bit weights in groups of 128" in note


def test_a_manifest_of_before_is_compared_with_nobody_like_for_like() -> None:
    found = with_variant("ov-int4", rounding=None).comparison
    assert [section.title for section in found.sections] == [
        "As deployed",
        "Like for like: unquantized",
    ]
    assert (
        "ov-int4 has a manifest of before its bits and groups were recorded"
        in found.sections[0].note
    )


def test_a_precision_that_differs_is_said_and_nobody_wins() -> None:
    rows = make.variants()
    for name in ("ov-bf16", "ov-int4"):
        del rows[name]["benchmark"]["profiles"]["matched"]
    found = section(make.summary(rows).comparison, "Like for like: 4-bit")
    assert found.note.startswith("NOT at the same precision")
    assert "KV cache: uint8_t (ov-int4), bfloat16 (gptq-int4 and awq-int4)" in found.note
    assert "activations in 8 bits by groups of 32 (ov-int4)" in found.note
    assert set(found.winners.values()) == {None}
    assert "Nobody wins" in found.reasons["tokens_per_s_at_1"]


def test_vllm_rounds_activations_where_the_machine_has_amx() -> None:
    rows = make.variants()
    assert like_for_like.precision(typed(rows["gptq-int4"]), "deployed") == {
        "KV cache": "bfloat16",
        "arithmetic": "bfloat16",
    }
    rows["gptq-int4"]["benchmark"]["machine"]["instruction_sets"] = ["amx_int8"]
    assert "W4A8" in like_for_like.precision(typed(rows["gptq-int4"]), "deployed")["arithmetic"]
    rows["vllm-bf16"]["benchmark"]["machine"]["instruction_sets"] = ["amx_int8"]
    assert "W4A8" not in like_for_like.precision(typed(rows["vllm-bf16"]), "deployed")["arithmetic"]


def test_recommendations_name_who_cannot_be_told_apart_and_take_the_better_quality() -> None:
    found = make.summary().comparison
    latency = advice(found, "lowest latency")
    assert latency.variant == "ov-int8"
    assert (
        "ov-int8 with 110 (109 to 111) ms for a whole request (E2E) and ov-int4 with 110"
        in latency.reason
    )
    assert (
        "cannot be told apart; ov-int8 has the better quality: mean KL 0.0005 against 0.006"
        in latency.reason
    )
    assert "Left out: rounded-int2 (its verdict is FAIL)" in latency.reason
    assert advice(found, "smallest").variant == "awq-int4"
    assert "at concurrency 4" in advice(found, "fastest").reason
    assert "for a million output tokens" in advice(found, "cheapest").reason


def test_a_clear_winner_is_recommended_with_the_runner_up() -> None:
    found = with_variant("ov-int4", speed=600).comparison
    throughput = advice(found, "fastest")
    assert throughput.variant == "ov-int4"
    assert "; next is ov-int8 with 903" in throughput.reason


@pytest.mark.parametrize("status", ["NOT FASTER", "FAILED"])
def test_what_is_not_faster_is_not_recommended(status: str) -> None:
    rows = make.variants()
    rows["ov-int8"]["performance"] |= {"status": status, "reason": "as measured."}
    found = make.summary(rows).comparison
    assert advice(found, "fastest").variant == "ov-int4"
    assert f"ov-int8 ({status}: as measured)" in advice(found, "fastest").reason


def test_a_variant_for_another_device_is_said_to_be_one() -> None:
    rows = make.variants()
    rows["ov-int8"]["performance"] |= {
        "status": "OFF TARGET",
        "reason": "measured on cpu, made for cuda",
    }
    assert (
        "(measured on cpu, made for cuda)"
        in advice(make.summary(rows).comparison, "lowest latency").reason
    )


def test_cheapest_needs_a_price() -> None:
    rows = make.variants()
    for one in rows.values():
        one["benchmark"]["costs"] = []
    cheapest = advice(make.summary(rows).comparison, "cheapest")
    assert cheapest.variant is None
    assert "benchmark: {price:" in cheapest.reason


def test_nothing_passed_nothing_is_recommended() -> None:
    rows = {"bad": make.variant("bad", speed=None, status="FAIL")}
    found = make.summary(rows).comparison
    assert found.concurrency is None
    assert all(one.variant is None for one in found.recommendations)
    assert "bad (its verdict is FAIL)" in found.recommendations[0].reason


def test_figures_that_are_missing_stay_missing() -> None:
    """No request of a level succeeded, a check could not be made: no NaN comes through, and no
    winner."""
    rows = make.variants()
    for one in rows["ov-int4"]["benchmark"]["profiles"]["deployed"]["levels"]:
        one |= {"ttft_ms": None, "tpot_ms": None, "e2e_ms": None}
    rows["ov-int4"]["verdict"]["checks"][0]["value"] = float("nan")
    found = make.summary(rows).comparison
    deployed = section(found, "As deployed")
    assert row(deployed, "ov-int4").values["ttft_ms_at_1"] is None
    assert row(deployed, "ov-int4").quality["accuracy_drop"] is None
    json.dumps(found.model_dump(mode="json"), allow_nan=False)
    assert "ov-int4 (it was not timed)" in advice(found, "lowest latency").reason
