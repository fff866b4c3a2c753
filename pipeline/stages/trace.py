"""The trace stage: the requests of the benchmark, the same for every variant."""

from __future__ import annotations

from pipeline import paths
from pipeline import recipe as recipes
from pipeline.evidence import opened
from pipeline.records import Trace, artifact
from pipeline.runtime import costs
from pipeline.source import checkpoint


def run(name: str) -> None:
    """The trace stage. Raises EvaluationError if the prompts do not give enough requests."""
    recipe = opened.recipe(name)
    source, _ = checkpoint.open_pinned(name, recipe.model)
    prompts = recipe.benchmark.prompts
    stage = f"trace@{name}"
    with artifact.stage_folder(stage) as folder:
        job = {
            "checkpoint": str(source),
            "samples": str(paths.samples(name)),
            "benchmark": recipe.benchmark.model_dump(),
            "prompt_set": recipes.load_prompt_set(prompts).model_dump() if prompts else None,
        }
        done = costs.run(stage, "openvino", "trace", job, folder)
    record = Trace.model_validate(done.value)
    record.write(paths.trace(name))
    tokens = [len(request.prompt) for request in record.requests]
    print(f"{len(tokens)} requests, prompts of {min(tokens)} to {max(tokens)} tokens")
