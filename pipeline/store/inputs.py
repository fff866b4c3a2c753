"""The key of a stage: SHA-256 over all that DVC says it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.records import File, artifact
from pipeline.store import graph
from pipeline.store.graph import Graph, Stage

FORMAT = 1  # of what is hashed; another one finds nothing of an earlier

Listing = Callable[[str], list[File]]  # the files at or below a path, with their hashes
Stamps = dict[str, tuple[int, int]]  # of each file, its size in bytes and when it was written, ns


def key(stage: Stage, files: Listing) -> str | None:
    """None where something that it depends on is not there: it has not run, and the stage itself
    says so best."""
    deps = {}
    for path in stage.deps:
        listed = files(path)
        if not listed:
            return None
        deps[path] = artifact.digest(listed)
    says = {"format": FORMAT, "command": stage.command, "params": stage.params, "deps": deps}
    return hashlib.sha256(canonical(says).encode()).hexdigest()


def canonical(value: object) -> str:
    """JSON that is the same for the same content."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


@dataclass(frozen=True)
class Inputs:
    """A stage with its key, and the files that this rests on as they were then."""

    stage: Stage
    key: str | None
    stamps: Stamps

    def changed(self) -> list[str]:
        """The files that were written to since."""
        return [name for name, stamp in self.stamps.items() if _stamp(Path(name)) != stamp]


def here(name: str) -> Inputs:
    """Of a stage of the project that is the working folder. Reads every file that it depends on.
    Raises ArtifactError where DVC does not know it."""
    with graph.opened() as project:
        stage = project.stage(name)
        files = {path: project.files(path) for path in stage.deps}
    stamps = {str(file): _stamp(file) for listed in files.values() for file in listed}
    return Inputs(stage, key(stage, lambda path: hashed(files[path])), stamps)


def on_disk(project: Graph) -> Listing:
    return lambda path: hashed(project.files(path))


def hashed(files: list[Path]) -> list[File]:
    return [artifact.hash_file(file, file.as_posix()) for file in files]


def _stamp(file: Path) -> tuple[int, int]:
    """-1 twice for a file that is gone."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
