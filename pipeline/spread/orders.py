"""A stage as a job for another machine: which files it is sent, and what it needs there."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline import engines, paths, quantizers
from pipeline import recipe as recipes
from pipeline.errors import RecipeError
from pipeline.evidence import provenance, revision
from pipeline.planning import estimate
from pipeline.recipe import Recipe, Variant
from pipeline.records import File, Needs, Order
from pipeline.runtime import environments
from pipeline.spread.missing import Missing
from pipeline.store.graph import Stage
from pipeline.store.inputs import Listing
from pipeline.store.results import Store

ALWAYS = ("params.yaml", ".dvcignore")
TOKENIZES = "openvino"  # the environment of calibrate and trace
ON_ENGINES = ("evaluate", "climb", "gate", "benchmark")
CUDA = "cuda"


class Orders:
    """Makes the orders of one recipe, with the project as it is now."""

    def __init__(self, recipe: Recipe, stages: list[Stage], on_disk: Listing, url: str) -> None:
        """Raises RecipeError for a recipe that names files outside of the project."""
        self._recipe, self._url = recipe, url
        self._revision = revision.now(provenance.rests_on(recipe.name))
        self._files = _project(recipe, stages, on_disk)

    def send_project(self, store: Store) -> None:
        """Puts the project's own files into the store, where the nodes find them."""
        for file in self._files:
            store.objects.keep(file, Path(file.path))

    def of(self, stage: Stage, key: str, missing: Missing, whole: bool) -> Order:
        """`whole`: with all weights that the stages before it made, not only those that DVC says it
        depends on."""
        whole = whole or stage.verb == "benchmark"  # it depends on manifests, and loads the models
        files = {file.path: file for file in [*self._files, *missing.files(stage.name, whole)]}
        return Order(
            stage=stage.name,
            command=stage.command,
            key=key,
            store=self._url,
            files=list(files.values()),
            revision=self._revision,
            environments=sorted(_environments(self._recipe, stage)),
            device=environments.device(),
        )

    def needs(self, stage: Stage) -> Needs:
        """Memory is what `plan` says of the stage; 0 where the model's size is not known."""
        served = {of.engine for of in _variants(self._recipe, stage)}
        engine_names = served if stage.verb in ON_ENGINES else set()
        on_gpu = "vllm" in engine_names and environments.device() == CUDA
        return Needs(
            memory_bytes=int(_memory(self._recipe, stage)),
            gpus=int(on_gpu),
            named=sorted((engine_names - {"vllm"}) | ({CUDA} if on_gpu else set())),
            exclusive=stage.verb == "benchmark",
        )


def _project(recipe: Recipe, stages: list[Stage], on_disk: Listing) -> list[File]:
    """What the stages read that none of them makes, and what their evidence names."""
    deps = [dep for stage in stages for dep in stage.deps if not dep.startswith("artifacts/")]
    names = [path.as_posix() for path in provenance.rests_on(recipe.name)]
    asked = [*deps, *names, *ALWAYS, paths.checkpoint(recipe.name).as_posix()]
    if recipe.model.path and _is_inside(recipe.model.path):  # else the nodes must have it too
        asked.append(recipe.model.path)
    if outside := [path for path in asked if not _is_inside(path)]:
        raise RecipeError(
            f"{paths.recipe(recipe.name)}: it names {outside[0]}, which lies outside of the project"
            " and is not sent to other machines. Put a copy into the project."
        )
    files = [file for path in dict.fromkeys(asked) for file in on_disk(path)]
    return list({file.path: file for file in files}.values())


def _is_inside(path: str) -> bool:
    return not Path(path).is_absolute() and not os.path.relpath(path).startswith("..")


def _variants(recipe: Recipe, stage: Stage) -> list[Variant]:
    """Those that the stage works on, a ladder as all its rungs: one, all, or none."""
    asked = stage.name.partition("--")[2]
    if not asked:
        return list(recipe.variants.values()) if stage.verb == "benchmark" else []
    return recipes.rungs(recipe.variants[asked])


def _memory(recipe: Recipe, stage: Stage) -> float:
    variants = _variants(recipe, stage)
    if not variants:
        kind = "reference" if stage.verb == "reference" else "calibrate"
        return estimate.needs_bytes(recipe, kind)
    kinds = ["quantize"] if stage.verb == "quantize" else ["evaluate"]
    kinds += ["quantize"] if stage.verb == "climb" else []
    return max(estimate.needs_bytes(recipe, kind, of) for kind in kinds for of in variants)


def _environments(recipe: Recipe, stage: Stage) -> set[str]:
    variants = _variants(recipe, stage)
    if stage.verb == "reference":
        return {engines.ENGINES["reference"].environment}
    if not variants:
        return {TOKENIZES}
    tools = {quantizers.tool(of).environment for of in variants}
    scorers = {engines.ENGINES[of.engine].environment for of in variants}
    return (
        tools if stage.verb == "quantize" else scorers | (tools if stage.verb == "climb" else set())
    )
