"""`quantgate plan` tells the truth: its estimates against what real stages took, within a factor of
two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import recipe
from pipeline.planning import estimate, shrinking
from pipeline.planning.estimate import Counted, Shape, quantizing, workload
from pipeline.quantizers.table import SERVED
from pipeline.recipe import Recipe, Variant
from pipeline.records import Speed, StageCost, TaskLoad, Workload

# Stages of real models, each with the speed of its cores, its recipe, sizes and load:
# tests/record_costs.py made the file. Those on one core tell processor time, since other programs
# ran beside them; those on two tell wall time.
RECORDED = json.loads(Path(__file__).with_name("stage_costs.json").read_text())
SHORT_S = 20.0  # below it imports are most of a stage
LITTLE_BYTES = 1e8
FACTOR = 2.0


def counted(model: dict[str, Any]) -> tuple[Recipe, Counted]:
    load, items = Workload.model_validate(model["load"]), model["items"]
    known = Counted(Shape(**model["shape"]), load, items, Speed.model_validate(model["speed"]))
    return Recipe.model_validate(model["recipe"]), known


@pytest.fixture
def some() -> tuple[Recipe, Counted]:
    return counted(next(iter(RECORDED.values())))


@pytest.mark.parametrize("name", list(RECORDED))
def test_time_and_memory_are_within_a_factor_of_two(name: str) -> None:
    costs = {cost["stage"]: StageCost.model_validate(cost) for cost in RECORDED[name]["costs"]}
    rows = {row.stage: row for row in estimate.stages(*counted(RECORDED[name]))}
    off = []
    for stage, cost in costs.items():
        took_s = cost.processor_s if RECORDED[name]["speed"]["cores"] == 1 else cost.wall_s
        held = cost.peak_anonymous_bytes  # 0: from before it was recorded
        if (
            max(took_s, rows[stage].seconds) > SHORT_S
            and not 1 / FACTOR < rows[stage].seconds / took_s < FACTOR
        ):
            off.append(f"{stage}: {rows[stage].seconds:.0f} s estimated, {took_s:.0f} s taken")
        if (
            held
            and max(held, rows[stage].memory_bytes) > LITTLE_BYTES
            and not 1 / FACTOR < rows[stage].memory_bytes / held < FACTOR
        ):
            off.append(
                f"{stage}: {rows[stage].memory_bytes / 1e9:.2f} GB estimated, {held / 1e9:.2f} GB"
                " taken"
            )
    assert off == []
    assert costs


def test_every_way_to_quantize_has_an_estimate() -> None:
    used = {
        quantizing.method(Variant.model_validate(asked))
        for served in SERVED
        for asked in served.asked()
    }
    used |= {quantizing.method(Variant(engine=engine)) for engine in ("openvino", "vllm")}
    assert used == quantizing.METHODS.keys()


def test_autorounds_steps_do_not_grow_with_the_samples(some: tuple[Recipe, Counted]) -> None:
    """It draws as many rows for each step, whatever the number of samples."""
    loaded, known = some
    tuned = Variant.model_validate(
        {"engine": "vllm", "quantizer": "auto-round", "weights": "int4", "format": "awq"}
    )

    def flops(samples: int, iterations: int | None) -> float:
        asked = tuned.model_copy(update={"iterations": iterations})
        calibration = loaded.calibration.model_copy(update={"samples": samples})
        return quantizing.work(asked, known.shape, calibration).flops

    assert flops(64, None) == flops(128, None) == 4 * flops(64, 50)


def test_a_machine_of_twice_the_speed_takes_half_the_time(some: tuple[Recipe, Counted]) -> None:
    loaded, known = some
    rates = {
        name: 2 * value
        for name, value in known.speed.model_dump().items()
        if name.endswith(("flops", "per_s"))
    }
    slow, fast = (
        estimate.stages(loaded, known._replace(speed=known.speed.model_copy(update=new)))
        for new in ({}, rates)
    )
    for one, other in zip(slow, fast, strict=True):
        assert other.memory_bytes == one.memory_bytes
        if one.stage != "benchmark":  # which waits for arrivals as well
            assert other.seconds == pytest.approx(one.seconds / 2)


def test_emulated_bfloat16_is_not_what_engines_compute_in(
    some: tuple[Recipe, Counted],
) -> None:
    """A processor without instructions for it: torch's product took 250 times float32's, and a plan
    of an hour said 205."""
    recipe, known = some
    float32 = known.speed.model_copy(update={"bfloat16_flops": known.speed.float32_flops})
    emulated = known.speed.model_copy(update={"bfloat16_flops": known.speed.float32_flops / 250})
    expected, found = (
        [row.seconds for row in estimate.stages(recipe, known._replace(speed=speed))]
        for speed in (float32, emulated)
    )
    assert found == expected


def test_a_mixture_has_room_for_the_source_while_calibrating(some: tuple[Recipe, Counted]) -> None:
    """Which runs it, to count the tokens of each expert."""
    loaded, known = some
    mixture = known._replace(shape=known.shape._replace(has_experts=True))
    plain, mixed = (estimate.stages(loaded, found)[1] for found in (known, mixture))
    assert (plain.stage, mixed.memory_bytes - plain.memory_bytes) == (
        "calibrate",
        2 * known.shape.parameters,
    )


def test_what_the_gate_may_add_is_not_evaluated_at_first(some: tuple[Recipe, Counted]) -> None:
    """Of a sequential gate a fifth, and the rest in a row of its own."""
    loaded, known = some
    sequential = loaded.model_copy(
        update={"gate": loaded.gate.model_copy(update={"sequential": True})}
    )
    whole, parts = (
        {row.stage: row.seconds for row in estimate.stages(found, known)}
        for found in (loaded, sequential)
    )
    name = next(iter(loaded.variants))
    assert f"evaluate {name}, more items, at most" not in whole
    assert (
        parts[f"evaluate {name}"]
        < whole[f"evaluate {name}"]
        < parts[f"evaluate {name}"] + parts[f"evaluate {name}, more items, at most"]
    )
    assert parts["reference"] == whole["reference"]


def test_items_are_weighed_by_what_their_prompts_share(some: tuple[Recipe, Counted]) -> None:
    loaded, _ = some
    load = Workload(
        windows={}, tasks={"a": TaskLoad(tokens=100, shared_tokens=40, rows=8, generated=3)}
    )
    assert workload.tasks(loaded, load, {"a": 10}, shares=True) == (400, 80, 30)
    assert workload.tasks(loaded, load, {"a": 10}, shares=False) == (1000, 80, 30)


def test_a_plan_of_hours_says_what_to_shrink(root: Path) -> None:
    """What saves most comes first, and saves what it says."""
    loaded = recipe.load("llama-3.1-8b-instruct")
    items = dict.fromkeys(loaded.evaluate.tasks, 2500)
    known = Counted(
        Shape(8_030_261_248, 525_336_576, False, 128_256, False),
        Workload(windows={}, tasks={}),
        items,
        estimate.USUAL,
    )
    total = sum(row.seconds for row in estimate.stages(loaded, known))
    found = shrinking.savings(loaded, known, total)
    assert [saved for _, saved in found] == sorted((saved for _, saved in found), reverse=True)
    assert all(0.05 * total < saved < total for _, saved in found)
    without = {how.removeprefix("without variant ") for how, _ in found if "variant" in how}
    unquantized = {name for name, asked in loaded.variants.items() if not asked.quantizer}
    assert without and not without & unquantized  # without them the recipe is refused
    saved = dict(found)["evaluate.tasks: half the items"]
    halved = known._replace(items=dict.fromkeys(items, 1250))
    assert saved == pytest.approx(
        total - sum(row.seconds for row in estimate.stages(loaded, halved))
    )


def test_no_engine_is_named_that_no_variant_asks_for(some: tuple[Recipe, Counted]) -> None:
    loaded, known = some
    for engine in ("openvino", "vllm"):
        own = {
            name: variant for name, variant in loaded.variants.items() if variant.engine == engine
        }
        assert (
            estimate.stages(loaded.model_copy(update={"variants": own}), known)[-1].environment
            == engine
        )
