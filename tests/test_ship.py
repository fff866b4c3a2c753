"""The first card: which quantized variant to ship, for each goal, with ties shown and nothing
claimed that was not measured."""

from __future__ import annotations

import pytest

from pipeline.records import Ship
from pipeline.report.document import first_card
from pipeline.report.theme import Axis
from tests import timed_summaries as make


def ship(goal: str = "smallest", **changed: object) -> Ship:
    rows = make.variants()
    for name, row in changed.items():
        rows[name.replace("_", "-")] |= row  # type: ignore[operator]
    found = make.summary(rows, goal).comparison.ship
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("goal", "variant"),
    [
        ("smallest", "awq-int4"),
        ("fastest", "ov-int8"),
        ("cheapest", "ov-int8"),
        ("closest", "ov-int8"),
    ],
)
def test_the_recipes_goal_decides(goal: str, variant: str) -> None:
    assert ship(goal).variant == variant


def test_the_sentence_has_size_distance_and_speed() -> None:
    assert (
        ship("closest").headline
        == "Ship ov-int8: 50% of the size, mean KL 0.0005, no measurable change of speed (0.9 to"
        " 2.1 times)."
    )
    faster = {"speedup": {"1": {"ratio": 1.2}, "4": {"ratio": 1.5, "low": 1.4, "high": 1.6}}}
    assert (
        "1.5\u00d7 the speed of unquantized (1.4 to 1.6)."
        in ship("closest", ov_int8=faster).headline
    )
    once = {"speedup": {"4": {"ratio": 1.5}}}
    assert (
        "1.5\u00d7 the speed of unquantized, timed once." in ship("closest", ov_int8=once).headline
    )


def test_a_tie_is_said_and_what_it_is_ahead_of() -> None:
    facts = ship("fastest").facts
    assert facts[0].startswith(
        "Fastest (tied with ov-int4) of 4 quantized variants that passed, of 5: "
    )
    assert (
        "Behind: awq-int4 with 183 (181 to 185) tokens/s at concurrency 4 and gptq-int4 with 180"
        in facts[0]
    )
    assert any(
        fact.startswith("Unquantized: ov-bf16 with 600") and "next is vllm-bf16 with 150" in fact
        for fact in facts
    )


def test_no_unquantized_variant_is_ever_shipped() -> None:
    rows = make.variants()
    for name in ("ov-int8", "ov-int4", "gptq-int4", "awq-int4"):
        rows[name]["verdict"]["status"] = "FAIL"
    found = make.summary(rows)
    assert found.comparison.ship is not None
    assert found.comparison.ship.variant is None
    assert (
        found.comparison.ship.headline == "Ship nothing yet: none of 5 quantized variants may be."
    )
    assert all(one.variant is None for one in found.comparison.recommendations)
    assert first_card(found)[2] == "fail"
    baselines = {name: row for name, row in make.variants().items() if row["quantizer"] is None}
    assert first_card(make.summary(baselines))[0].startswith(
        "2 of 2 variants passed; none is quantized"
    )


def test_an_axis_is_logarithmic_from_tenfold_on() -> None:
    assert Axis.over([10, 90]) == Axis(0, 97.2, False)
    wide = Axis.over([10.0, 100.0])
    assert wide.log
    assert wide.share(wide.low) == 0 and wide.share(wide.high) == pytest.approx(1)
    assert wide.share((wide.low * wide.high) ** 0.5) == pytest.approx(0.5)


def test_an_audit_says_its_verdict_and_recommends_nothing() -> None:
    rows = make.variants()
    audited = rows["ov-int8"]
    audited["manifest"] = {**audited["manifest"], "taken_from": "owner/name@v1"}
    headline, facts, style = first_card(make.summary({"ov-int8": audited}, "fastest"))
    assert headline.startswith("ov-int8: PASS: ")
    assert "quantgate did not make this artifact" in facts[0]
    assert style == "pass"
