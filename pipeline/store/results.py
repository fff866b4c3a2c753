"""A store: results/KEY.json says what a stage made, the files of it are objects.

The record is written last, so that what it names is there. Whoever takes a result hashes every file
on its way, before the first is put into its place."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from pydantic import ValidationError

from pipeline.errors import Tampered
from pipeline.records import Out, Result, artifact
from pipeline.release.registries import shared
from pipeline.store.graph import Stage
from pipeline.store.inputs import canonical
from pipeline.store.objects import Objects

SHA256 = re.compile("[0-9a-f]{64}")


class Store:
    """Every verb raises RegistryError where the store cannot be asked, or refuses."""

    def __init__(self, url: str) -> None:
        """Raises RegistryError for a URL that cannot be opened."""
        self.objects = Objects(url)

    def find(self, key: str) -> Result | None:
        """What is stored under a key; its files are not looked at yet. Raises Tampered for a record
        that is not as it was written."""
        text = self.objects.read(_name(key))
        if text is None:
            return None
        try:
            result = Result.model_validate_json(text)
        except ValidationError as error:
            reason = f"no record of a result: {error.errors()[0]['msg']}"
            raise self._refused(key, reason) from error
        if result.key != key or result.sha256 != seal(result):
            raise self._refused(key, "changed since it was written, or another result's record")
        return result

    def take(self, result: Result, stage: Stage) -> None:
        """Puts a result into its places in the project. Raises Tampered where the record names what
        the stage does not make, or a file is not as the record says; nothing was put there then."""
        if reason := _oddity(result, stage):
            raise self._refused(result.key, reason)
        with artifact.stage_folder(stage.name) as folder:
            for file in result.files:
                self.objects.fetch(file, folder / file.path)
            for out in result.outs:
                if out.is_folder:
                    (folder / out.path).mkdir(parents=True, exist_ok=True)
                artifact.install(folder / out.path, Path(out.path))
        for made in stage.outs:
            if not made.kept:
                Path(made.path).mkdir(parents=True, exist_ok=True)

    def put(self, result: Result) -> None:
        """Keeps the files of a result, which lie in their places, then its record."""
        for file in result.files:
            self.objects.keep(file, Path(file.path))
        sealed = result.model_copy(update={"sha256": seal(result)})
        self.objects.write(_name(result.key), sealed.dumps())

    def _refused(self, key: str, reason: str) -> Tampered:
        return self.objects.refused(_name(key), reason)


def outs(stage: Stage) -> list[Out]:
    """What a stage left in its places, hashed. Raises ArtifactError for a link that leaves one."""
    made = []
    for place in (Path(made.path) for made in stage.outs if made.kept):
        if place.is_dir():
            files = [
                file.model_copy(update={"path": f"{place.as_posix()}/{file.path}"})
                for file in artifact.hash_files(place)
            ]
        else:
            files = [artifact.hash_file(place, place.as_posix())]
        made.append(Out(path=place.as_posix(), is_folder=place.is_dir(), files=files))
    return made


def seal(result: Result) -> str:
    says = result.model_dump(mode="json", exclude={"sha256"})
    return hashlib.sha256(canonical(says).encode()).hexdigest()


def _name(key: str) -> str:
    return f"results/{key}.json"


def _oddity(result: Result, stage: Stage) -> str | None:
    """Why a record is none of the stage: a record may name only what the stage makes."""
    kept = sorted(made.path for made in stage.outs if made.kept)
    if result.stage != stage.name or sorted(out.path for out in result.outs) != kept:
        return f"not a result of {stage.name}, which makes {', '.join(kept)}"
    for out in result.outs:
        for file in out.files:
            if not _is_in(file.path, out) or not SHA256.fullmatch(file.sha256):
                return f"it names {file.path!r}, which is no file of {out.path}"
        if not out.is_folder and len(out.files) != 1:
            return f"it has {len(out.files)} files for {out.path}, expected one"
    return None


def _is_in(path: str, out: Out) -> bool:
    inside = path.startswith(f"{out.path}/") if out.is_folder else path == out.path
    return inside and shared.is_inside(path)
