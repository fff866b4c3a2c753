"""The Markdown report and the metrics, from a complete summary."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.report.markdown import render
from pipeline.report.metrics import metrics
from tests import timed_summaries as make


def page(rows: dict[str, Any] | None = None) -> str:
    return render(make.summary(rows))


def test_verdicts_say_how_fast_too() -> None:
    found = page()
    assert (
        "| ov-int8 | **PASS** | 1.2 MB | 50% | 0.0005 (0.00045 to 0.00055) | 903 (894 to 912) |"
        in found
    )
    assert "| 1.4\u00d7 (0.9 to 2.1) | no speedup asked for |" in found
    assert "| rounded-int2 | `accuracy_drop` | **FAIL** | accuracy_drop is 0.5 |" in found
    assert (
        "- PASS, all 9 checks: ov-bf16, ov-int8, ov-int4, vllm-bf16, gptq-int4 and awq-int4."
        in found
    )
    assert "- FAIL: rounded-int2, 8 of 9 checks passed." in found
    assert "| rounded-int2 | NOT MEASURED | what is said of rounded-int2's speed |" in found


def test_mean_kl_by_position_has_a_table_where_it_was_asked_for() -> None:
    rows = make.variants()
    assert "long_context_kl" not in page(rows)
    mean = next(
        check
        for check in rows["ov-int8"]["verdict"]["checks"]
        if check["name"].startswith("mean_kl deployed")
    )
    for span, value in (("0-255", 0.0002), ("256-510", 0.004)):
        check = {
            **mean,
            "name": f"long_context_kl deployed x {span}",
            "value": value,
            "low": value / 2,
            "high": 2 * value,
        }
        rows["ov-int8"]["verdict"]["checks"].append(check)
    found = page(rows)
    assert "| ov-int8 | `long_context_kl deployed x 256-510` | 0.004 | 0.002 to 0.008 |" in found


def test_speed_has_medians_intervals_profiles_and_failures() -> None:
    rows = make.variants()
    rows["ov-int8"] = make.variant(
        "ov-int8", weights="int8", speed=301, failed=3, rounding=make.INT8
    )
    found = page(rows)
    assert (
        "ov-bf16, ov-int8, ov-int4, vllm-bf16, gptq-int4, awq-int4 on X, 2 cores (avx2, avx512f)."
        in found
    )
    assert (
        "| ov-int8 | deployed | 1 at once | 301 (298 to 304) | 1.5\u00d7 (1.45 to 1.55) | 6.64"
        " (6.58 to 6.71) | 3.32" in found
    )
    assert "| **3 of 40** |" in found
    assert "| ov-int8 | matched | 1 at once | 271" in found
    assert "| rounded-int2 | not benchmarked: the gate says FAIL |" in found
    assert "| ov-int8 | deployed | 80% of its highest rate, 22.6/s |" in found
    assert "| ov-int8 | deployed | 4 at once | p50 2.21, p90 4.43 |" in found
    assert "| ov-int8 | 1 MB | 1 GB | 1 |" in found
    assert "USD a million output tokens, 60% busy" in found
    assert "| ov-int8 | deployed, concurrency 1: 3 of 40 requests failed: it broke |" in found


def test_what_was_not_asked_for_has_no_heading() -> None:
    rows = {"ov-bf16": make.variant("ov-bf16", quantizer=None, weights="bf16")}
    rows["ov-bf16"]["benchmark"] |= {"costs": [], "notices": []}
    for profile in rows["ov-bf16"]["benchmark"]["profiles"].values():
        profile["levels"] = profile["levels"][:2]
        for level in profile["levels"]:
            for name in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"):
                level[name] |= {"percentiles": {}}
    found = page(rows)
    for heading in (
        "of its highest rate",
        "Latency percentiles",
        "busy |",
        "What to know",
        "Over HTTP",
    ):
        assert heading not in found


def test_one_repeat_and_no_success_are_said() -> None:
    rows = {"ov-int4": make.variant("ov-int4", repeats=1)}
    rows["ov-int4"]["benchmark"]["profiles"]["deployed"]["levels"][0] |= {
        "ttft_ms": None,
        "tpot_ms": None,
        "e2e_ms": None,
    }
    found = page(rows)
    assert (
        "| ov-int4 | deployed | 1 at once | 300 | 1.5\u00d7 (1.45 to 1.55) | not measured | not"
        " measured |" in found
    )
    assert "| ov-int4 | deployed | 4 at once | 900 | 1.4\u00d7 (0.9 to 2.1) |" in found


def test_http_has_a_section_of_its_own() -> None:
    rows = make.variants()
    served = make.benchmark(
        "gptq-int4",
        "vllm",
        900_000,
        {"deployed": make.profile(55, {})},
        over="http",
        device=None,
        machine={},
    )
    rows["gptq-int4"]["http"] = served.model_dump(mode="json")
    found = page(rows)
    section = found[found.index("### Over HTTP") : found.index("## Memory")]
    assert "| gptq-int4 | deployed | 1 at once | 55 (" in section
    assert "ov-int4 | deployed" not in section


def test_the_comparison_is_on_the_page() -> None:
    found = page()
    assert "| lowest latency | ov-int8 | ov-int8 with 110 (109 to 111) ms" in found
    assert "### Like for like: 4-bit weights in groups of 128" in found
    assert "| **270** (267 to 273) | 60 (59.4 to 60.6) |" in found
    assert "| Peak memory | ov-int4, gptq-int4 and awq-int4 cannot be told apart" in found


def test_metrics_are_flat_and_fit_into_a_row() -> None:
    found = metrics(make.summary())
    assert found["ov-int8"]["tokens_per_s_at_1"] == pytest.approx(301)
    assert found["ov-int4"]["mean_kl"] == pytest.approx(
        0.006
    )  # as deployed, where the weights alone have 0.003
    assert found["rounded-int2"]["performance"] == "NOT MEASURED"
    assert "tokens_per_s_at_1" not in found["rounded-int2"]
    assert all(
        isinstance(value, (str, float, int)) for row in found.values() for value in row.values()
    )
    assert max(len(row) for row in found.values()) <= 12


def test_metrics_hold_the_speedup_where_it_was_decided() -> None:
    rows = make.variants()
    rows["ov-int8"]["performance"] |= {"status": "FASTER", "speedup": 1.5}
    found = metrics(make.summary(rows))
    assert (found["ov-int8"]["performance"], found["ov-int8"]["speedup"]) == ("FASTER", 1.5)
    assert "speedup" not in found["ov-int4"]
