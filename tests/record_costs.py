"""Takes what the stages of recipes took into tests/stage_costs.json, which tests/test_estimate.py
holds the plan against.

    [taskset -c 0] python -m tests.record_costs PROJECT NAME[:STAGE,STAGE...] ...

PROJECT is one whose stages ran on the cores that this program may use. On one core a stage's
processor time is what it takes on a core that is idle otherwise, whatever runs on the others; on
several, threads that wait for each other spin, and wall time counts: name the stages that had the
machine to themselves. Each call puts the models that it is given in the place of their last
figures."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import paths, recipe
from pipeline.planning import estimate, power
from pipeline.planning.estimate import workload
from pipeline.records import Evaluation, Manifest, StageCost, read
from pipeline.runtime import speed

OUT = Path(__file__).with_name("stage_costs.json")


def record(project: Path, asked: list[str]) -> dict[str, Any]:
    with contextlib.chdir(project):
        core = speed.here()
        assert core is not None
        return {
            f"{name}, {core.cores} cores": {"speed": core.model_dump(), **_model(name, stages)}
            for name, _, stages in (one.partition(":") for one in asked)
        }


def _model(name: str, stages: str) -> dict[str, Any]:
    loaded = recipe.load(name)
    shape, load = estimate.of(loaded), workload.look(loaded)
    assert shape is not None
    wanted = stages.split(",") if stages else None
    return {
        "shape": shape._asdict(),
        "load": load.model_dump(),
        "items": power.count_items(loaded),
        "recipe": loaded.model_dump() | {"model": {"path": name}},
        "costs": [
            cost.model_dump()
            for cost in _costs(name, loaded)
            if wanted is None or cost.stage in wanted
        ],
    }


def _costs(name: str, loaded: recipe.Recipe) -> Iterator[StageCost]:
    """By the stage's name in the plan. Of what ran before there were cost records, manifests and
    evaluations have the wall time; of its memory only what is resident, with that of forked
    processes twice."""
    for kind in ("pin", "calibrate", "reference"):
        if paths.cost(f"{kind}@{name}").is_file():
            yield read(paths.cost(f"{kind}@{name}"), StageCost).model_copy(update={"stage": kind})
    older = [("reference", paths.evaluation(name, "reference"), Evaluation)]
    for variant in loaded.variants:
        older += [(f"quantize {variant}", paths.manifest(name, variant), Manifest)]
        older += [(f"evaluate {variant}", paths.evaluation(name, variant), Evaluation)]
    for stage, path, kind_of in older:
        cost = paths.cost(stage.replace(" ", f"@{name}--") if " " in stage else f"{stage}@{name}")
        if cost.is_file() and stage != "reference":
            yield read(cost, StageCost).model_copy(update={"stage": stage})
        elif path.is_file() and not cost.is_file():
            found = read(path, kind_of)
            yield StageCost(
                stage=stage,
                environment=found.origin.environment,
                wall_s=found.wall_s,
                processor_s=0,
                peak_memory_bytes=found.peak_memory_bytes,
                peak_anonymous_bytes=0,
            )


if __name__ == "__main__":
    known = json.loads(OUT.read_text()) if OUT.is_file() else {}
    OUT.write_text(json.dumps(known | record(Path(sys.argv[1]), sys.argv[2:]), indent=1) + "\n")
