"""The calibrate stage: prompts and evaluation texts become token ids."""

from __future__ import annotations

from pipeline import paths
from pipeline import recipe as recipes
from pipeline.evidence import opened
from pipeline.planning import estimate
from pipeline.records import artifact
from pipeline.runtime import costs
from pipeline.source import checkpoint, lengths


def run(name: str) -> None:
    recipe = opened.recipe(name)
    source, _ = checkpoint.open_pinned(name, recipe.model)
    lengths.refuse(paths.recipe(name), recipe, source)
    used = {recipe.calibration.prompts, *recipe.evaluate.perplexity.texts}
    stage = f"calibrate@{name}"
    with artifact.stage_folder(stage) as folder:
        out = folder / "out"
        out.mkdir()
        job = {
            "checkpoint": str(source),
            "calibration": recipe.calibration.model_dump(),
            "perplexity": recipe.evaluate.perplexity.model_dump(),
            "prompt_sets": {key: recipes.load_prompt_set(key).model_dump() for key in sorted(used)},
            "out": str(out),
        }
        done = costs.run(
            stage,
            "openvino",
            "calibrate",
            job,
            folder,
            estimate.needs_bytes(recipe, "calibrate"),
        )
        artifact.install(out, paths.samples(name).parent)
    for note in done.value["notes"]:
        print(f"note: {recipe.calibration.prompts}: {note}")
    print(
        f"calibration set from {done.value['prompts_used']} prompts, overlap"
        f" {done.value['overlap']:.2%}"
    )
