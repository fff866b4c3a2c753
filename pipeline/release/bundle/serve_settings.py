"""serve.yaml: the exact settings under which an artifact was measured, and what starts its engine
with them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.errors import ArtifactError
from pipeline.recipe import Serve, Strict
from pipeline.recipe.parsing import parse
from pipeline.release.bundle.layout import Records

HEADER = (
    "# The settings under which this artifact was measured. `quantgate serve` starts its engine"
    " with them.\n"
)


class Settings(Strict):
    """`serve` are the recipe's words; `measured` what the engine itself said of its settings while
    it was measured."""

    engine: str
    device: str
    serve: Serve
    measured: dict[str, Any]


def render(records: Records) -> str:
    """Raises ArtifactError if the artifact was never measured as it serves."""
    name = records.manifest.variant
    if "deployed" not in records.evaluation.views:
        raise ArtifactError(
            f"{records.manifest.recipe}/{name}: not measured as it serves (no view 'deployed')"
        )
    serve = records.recipe.with_variant(name, records.variant).serve_for(name)
    settings = Settings(
        engine=records.manifest.engine,
        device=records.benchmark.device or records.manifest.device,
        serve=serve,
        measured=records.evaluation.views["deployed"].settings,
    )
    stream, yaml = io.StringIO(), YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(settings.model_dump(mode="json"), stream)
    return HEADER + stream.getvalue()


def read(path: Path) -> Settings:
    """Raises RecipeError naming key and value."""
    return parse(path, Settings)
