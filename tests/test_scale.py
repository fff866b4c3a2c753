"""benchmarks/scale and its scheduler: by hand, against bounds and against the best schedule."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Collection, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import scale, scale_model, schedule
from benchmarks.scale_model import WAYS, WORLDS, Edges, Times, Way, World
from benchmarks.schedule import Job
from pipeline.recipe import Recipe
from tests.conftest import ROOT

CHAIN = [Job("a", 3), Job("b", 4, ("a",)), Job("c", 1)]


@st.composite
def graphs(draw: st.DrawFn, most: int = 12) -> list[Job]:
    """Jobs that come after some of those before them."""
    found: list[Job] = []
    for number in range(draw(st.integers(1, most))):
        before = [job.name for job in found]
        after = draw(st.lists(st.sampled_from(before), unique=True)) if before else []
        found.append(Job(f"{number}", draw(st.integers(1, 20)), tuple(after)))
    return found


def best_s(jobs: Collection[Job], nodes: int) -> float:
    """Of all orders: each job as early as those before it in the order let it."""
    return min(_in_order(order, nodes) for order in itertools.permutations(jobs))


def _in_order(order: Collection[Job], nodes: int) -> float:
    """Infinite for an order in which a job stands before one that it waits for."""
    spans: dict[str, tuple[float, float]] = {}
    for job in order:
        if any(name not in spans for name in job.after):
            return math.inf
        ready = max((spans[name][1] for name in job.after), default=0.0)
        starts = sorted({ready, *(end for _, end in spans.values() if end > ready)})
        start = next(start for start in starts if _has_room(start, job, spans, nodes))
        spans[job.name] = (start, start + job.seconds)
    return max(end for _, end in spans.values())


def _has_room(start: float, job: Job, spans: dict[str, tuple[float, float]], nodes: int) -> bool:
    end = start + job.seconds
    moments = [start, *(begun for begun, _ in spans.values() if start < begun < end)]
    return all(
        sum(begun <= moment < ended for begun, ended in spans.values()) < nodes
        for moment in moments
    )


@pytest.mark.parametrize(
    ("jobs", "nodes", "wall_s"),
    [
        (CHAIN, 1, 8),
        (CHAIN, 2, 7),
        (CHAIN, 3, 7),
        ([Job("a", 2), Job("b", 3), Job("c", 4)], 2, 6),  # c waits for a's node
        ([Job("a", 1), Job("b", 1), Job("c", 2, ("a", "b")), Job("d", 2, ("a", "b"))], 2, 3),
        ([Job("a", 1), Job("b", 1), Job("c", 2)], 2, 3),  # Graham's worst of two nodes: 2 would do
    ],
)
def test_by_hand(jobs: list[Job], nodes: int, wall_s: float) -> None:
    run = schedule.run(jobs, nodes)
    assert run.wall_s == wall_s
    assert run.utilisation == sum(job.seconds for job in jobs) / (nodes * wall_s)


def test_first_come_first_served_unless_the_longest_chain_goes_first() -> None:
    jobs = [Job("a", 1), Job("b", 1), Job("c", 2)]
    assert schedule.run(jobs, 2).ends == {"a": 1, "b": 1, "c": 3}
    assert schedule.run(jobs, 2, urgent_first=True).ends == {"c": 2, "a": 1, "b": 2}


def test_the_critical_path_is_the_longest_chain() -> None:
    jobs = [*CHAIN, Job("d", 5, ("c",)), Job("e", 1, ("b", "d"))]
    assert [job.name for job in schedule.critical_path(jobs)] == ["a", "b", "e"]
    assert schedule.longest_from(jobs) == {"a": 8, "b": 5, "c": 7, "d": 6, "e": 1}


def test_jobs_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="cycle"):
        schedule.run([Job("a", 1, ("b",)), Job("b", 1, ("a",))], 1)


@given(graphs(), st.integers(1, 6), st.booleans())
def test_no_schedule_is_better_than_possible_or_worse_than_grahams_bound(
    jobs: list[Job], nodes: int, urgent_first: bool
) -> None:
    """Graham 1966: 2 - 1/N times what no schedule is faster than."""
    run, least = schedule.run(jobs, nodes, urgent_first), schedule.least_s(jobs, nodes)
    assert least <= run.wall_s <= (2 - 1 / nodes) * least + 1e-9
    assert 0 < run.utilisation <= 1
    begun = {job.name: run.ends[job.name] - job.seconds for job in jobs}
    assert all(run.ends[before] <= begun[job.name] for job in jobs for before in job.after)
    for moment in begun.values():  # never more jobs than nodes
        assert sum(begun[name] <= moment < end for name, end in run.ends.items()) <= nodes


@given(graphs())
def test_one_node_takes_the_sum_and_a_node_for_each_the_longest_chain(jobs: list[Job]) -> None:
    assert schedule.run(jobs, 1).wall_s == sum(job.seconds for job in jobs)
    chain = schedule.critical_path(jobs)
    assert schedule.run(jobs, len(jobs)).wall_s == sum(job.seconds for job in chain)
    assert all(one.name in other.after for one, other in itertools.pairwise(chain))


@given(graphs(most=5), st.integers(1, 3), st.booleans())
def test_beside_the_best_of_all_schedules(jobs: list[Job], nodes: int, urgent_first: bool) -> None:
    best = best_s(jobs, nodes)
    assert schedule.least_s(jobs, nodes) <= best
    assert best <= schedule.run(jobs, nodes, urgent_first).wall_s <= (2 - 1 / nodes) * best + 1e-9


def test_a_stage_that_is_cut_waits_and_is_waited_for_as_a_whole() -> None:
    stages: Edges = {"a@r": (), "b@r": ("a@r",), "c@r": ("b@r",)}
    cut = scale.jobs(stages, {"a@r": [[1]], "b@r": [[2, 2], [3]], "c@r": [[4]]})
    assert {job.name: (job.seconds, job.after) for job in cut} == {
        "a@r": (1, ()),
        "b@r, shard 1 of look 1": (2, ("a@r",)),
        "b@r, shard 2 of look 1": (2, ("a@r",)),
        "b@r, shard 1 of look 2": (3, ("b@r, shard 1 of look 1", "b@r, shard 2 of look 1")),
        "c@r": (4, ("b@r, shard 1 of look 2",)),
    }


@pytest.fixture(scope="module")
def project() -> Iterator[tuple[Recipe, Edges]]:
    with contextlib.chdir(ROOT), scale_model.project() as recipe:
        yield recipe, scale_model.edges()


def test_the_graph_is_dvcs(project: tuple[Recipe, Edges]) -> None:
    _, stages = project
    named = {stage.replace("@large", ""): before for stage, before in stages.items()}
    assert len(named) == 4 + 3 * len(scale_model.VARIANTS) + 3
    assert "reference@large" in named["evaluate--ov-int8"]
    assert "reference@large" not in named["quantize--ov-int8"]
    assert "evaluate@large--ov-bf16" in named["gate--ov-int8"]  # the noise floor
    assert {f"gate@large--{name}" for name in scale_model.VARIANTS} <= {*named["benchmark"]}
    assert "benchmark@large" in named["report"]


@pytest.mark.parametrize("variant", ["ov-int8", "vllm-bf16", "gptq-int4-g128"])
def test_shards_do_the_same_work_and_load_again(
    project: tuple[Recipe, Edges], monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    monkeypatch.setattr(scale_model, "NETWORK_BYTES_PER_S", math.inf)
    times, stage = Times(project[0], World()), f"evaluate@large--{variant}"
    [[whole]] = times.rounds(stage, WAYS[0])
    [shards] = times.rounds(stage, Way("", shards=8))
    assert sum(shards) == pytest.approx(whole + 7 * times.load_s(variant))
    [[reference]] = times.rounds("reference@large", WAYS[0])
    [cut] = Times(project[0], World(loading=0)).rounds("reference@large", Way("", shards=8))
    assert sum(cut) < reference


@pytest.mark.parametrize(("variant", "looked"), [("ov-int8", 2), ("gptq-int4-g128", 3)])
def test_looks_end_before_all_items(
    project: tuple[Recipe, Edges],
    monkeypatch: pytest.MonkeyPatch,
    variant: str,
    looked: int,
) -> None:
    monkeypatch.setattr(scale_model, "NETWORK_BYTES_PER_S", math.inf)
    times, stage = Times(project[0], World(loading=0)), f"evaluate@large--{variant}"
    [[few]], [[every]] = (times.rounds(stage, Way("", looks=looks)) for looks in (True, False))
    assert few < every
    rounds = times.rounds(stage, Way("", shards=8, looks=True))
    assert [len(of) for of in rounds] == [8, *([2] * (looked - 1))]
    assert sum(map(sum, rounds)) == pytest.approx(few)


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.title)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.title)
def test_every_run_of_the_page_keeps_its_bounds(
    project: tuple[Recipe, Edges], way: Way, world: World
) -> None:
    found = scale.simulate(*project, way, world)
    for nodes, run in found.runs.items():
        least = schedule.least_s(found.jobs, nodes)
        assert 1 - 1e-9 <= run.wall_s / least <= 2 - 1 / nodes + 1e-9
        assert 0 < found.verdicts_s(nodes) < run.wall_s
    assert found.runs[1].wall_s == pytest.approx(sum(job.seconds for job in found.jobs))
    assert found.stops in scale.NODES
