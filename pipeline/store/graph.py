"""The stages as DVC has them: dvc.yaml with the names of params.yaml and the values of recipes/.
There is no second list."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError


@dataclass(frozen=True)
class Made:
    """A path that a stage makes. What is not `kept` (a ladder's rungs) DVC does not cache either:
    it only makes the next run shorter."""

    path: str
    kept: bool


@dataclass(frozen=True)
class Stage:
    """`params` are the values that it depends on, by file; `deps` are paths of the project."""

    name: str
    command: str
    params: dict[str, dict[str, Any]]
    deps: tuple[str, ...]
    outs: tuple[Made, ...]

    @property
    def verb(self) -> str:
        """`evaluate` of evaluate@RECIPE--VARIANT."""
        return self.name.partition("@")[0]


class Graph:
    """DVC's view of the project that is the working folder."""

    def __init__(self, repo: Any) -> None:
        self._repo = repo

    def stage(self, name: str) -> Stage:
        """One stage, without reading the others."""
        return _of(self._repo.stage.load_one(name=name))

    def stages(self, recipe: str) -> list[Stage]:
        """All of a recipe, in the order of dvc.yaml."""
        loaded = {stage.addressing: stage for stage in self._repo.stage.load_all()}
        return [
            _of(stage)
            for name, stage in loaded.items()
            if name.partition("@")[2].partition("--")[0] == recipe
        ]

    def files(self, path: str) -> list[Path]:
        """The files at or below a path, sorted, without those that DVC ignores; none where there is
        nothing."""
        place = Path(path)
        if not place.is_dir():
            return [place] if place.is_file() else []
        found = self._repo.dvcignore.find(self._repo.fs, str(place.absolute()))
        return sorted(place / Path(file).relative_to(place.absolute()) for file in found)


@contextmanager
def opened() -> Iterator[Graph]:
    """Raises ArtifactError where DVC cannot read the project."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(".") as repo:
            yield Graph(repo)
    except DvcException as error:
        raise ArtifactError(
            f"dvc.yaml: DVC cannot say what a stage depends on: {str(error).rstrip('.')}. See: dvc"
            " status"
        ) from error


def _of(stage: Any) -> Stage:
    from dvc.dependency.param import ParamsDependency

    params = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
    return Stage(
        name=stage.addressing,
        command=stage.cmd,
        params={dep.def_path: dict(dep.read_params()) for dep in params},
        deps=tuple(dep.def_path for dep in stage.deps if dep not in params),
        outs=tuple(Made(out.def_path, bool(out.use_cache)) for out in stage.outs),
    )
