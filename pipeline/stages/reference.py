"""The reference stage: the float32 evaluation that every variant is compared with."""

from __future__ import annotations

from pipeline import engines, paths
from pipeline.evidence import keeping, opened
from pipeline.evidence.candidate import Candidate
from pipeline.planning import estimate
from pipeline.recipe import Items
from pipeline.recipe.parsing import of_file
from pipeline.records import artifact
from pipeline.runtime import costs
from pipeline.source import checkpoint, lengths
from pipeline.stages import measuring


def run(name: str) -> None:
    recipe = opened.recipe(name)
    source, pinned = checkpoint.open_pinned(name, recipe.model)
    lengths.refuse(paths.recipe(name), recipe, source)
    most: dict[str, Items] = (
        dict(recipe.evaluate.extend_to) if recipe.gate.on_inconclusive == "extend" else {}
    )
    measured, stage = Candidate.here(recipe, "reference"), f"reference@{name}"
    with artifact.stage_folder(stage) as folder:
        logprobs = folder / "logprobs"
        logprobs.mkdir()
        asked = measuring.whole(recipe.evaluate.items | most)
        job = measuring.engine_job(measured, "reference", source, source, asked) | {
            "logprobs": str(logprobs)
        }
        needs = estimate.needs_bytes(recipe, "reference")
        with of_file(paths.recipe(name)):
            done = costs.run(
                stage, engines.ENGINES["reference"].environment, "reference", job, folder, needs
            )
        stored = artifact.digest(artifact.hash_files(logprobs))
        artifact.install(logprobs, paths.logprobs(name))
    done.value["logprobs_sha256"] = stored
    keeping.keep_reference(measuring.record(measured, artifact.digest(pinned.files), done, None))
