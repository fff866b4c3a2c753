"""What `quantgate plan` says of the tiny recipe, beside what its stages took in the run of `make
repro`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import paths, recipe
from pipeline.planning import estimate
from pipeline.planning.estimate import Counted, workload
from pipeline.records import Evaluation, StageCost, Texts, Workload, read
from tests.processor import NOT_MEASURED

pytestmark = pytest.mark.engine
FACTOR = 2.0
COMPILER_BYTES = (
    2e9  # GPTQModel compiles its packing kernel once a home folder, and that of this run is empty
)


@pytest.fixture(scope="module")
def load(tiny_untouched: Path) -> Workload:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tiny_untouched)
        return workload.look(recipe.load("tiny"))


def test_texts_and_items_are_weighed_as_they_are_measured(
    tiny_untouched: Path, load: Workload
) -> None:
    texts = read(tiny_untouched / paths.texts("tiny"), Texts).texts
    assert load.windows == {text.name: len(text.windows) for text in texts}
    answered = {
        task.name: task
        for task in read(tiny_untouched / paths.evaluation("tiny", "reference"), Evaluation).tasks
    }
    assert load.tasks.keys() == answered.keys()
    for name, task in load.tasks.items():
        generated = [item.generated_tokens or 0 for item in answered[name].items]
        assert (task.generated > 0) == (max(generated) > 0)
        assert max(generated) <= task.generated
        assert 5 < task.shared_tokens <= task.tokens < 200
        assert (task.shared_tokens < task.tokens / 2) == (
            answered[name].metric == "acc"
        )  # choices share their question


def test_every_stage_took_the_memory_that_was_planned(
    tiny_untouched: Path, load: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a factor of two. Time says nothing here: two processes of tests share the machine."""
    monkeypatch.chdir(tiny_untouched)
    tiny = recipe.load("tiny")
    shape, items = estimate.of(tiny), dict.fromkeys(tiny.evaluate.tasks, None)
    assert shape is not None
    known = Counted(
        shape,
        load,
        items
        | {"world_facts": 1200, "world_sums": 500, "world_sentences": 300, "world_answers": 200},
        estimate.USUAL,
    )
    off, compared = [], 0
    for row in estimate.stages(tiny, known):
        kind, _, variant = row.stage.partition(" ")
        path = paths.cost(f"{kind}@tiny--{variant}" if variant else f"{kind}@tiny")
        if kind == "benchmark" or row.memory_bytes < 1e8:
            continue
        if kind == "evaluate" and variant in NOT_MEASURED:
            continue
        cost, compared = read(path, StageCost), compared + 1
        most = (
            max(row.memory_bytes, COMPILER_BYTES) if row.environment == "gptq" else row.memory_bytes
        )
        if not row.memory_bytes / FACTOR <= cost.peak_anonymous_bytes <= FACTOR * most:
            off.append(
                f"{row.stage}: {row.memory_bytes / 1e9:.2f} GB planned,"
                f" {cost.peak_anonymous_bytes / 1e9:.2f} GB taken"
            )
    assert off == []
    assert compared == 3 + 2 * len(tiny.variants) - 1 - len(
        NOT_MEASURED
    )  # of copying vLLM's unquantized one there is nothing to say
