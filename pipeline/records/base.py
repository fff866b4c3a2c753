"""What the steps write and read: one frozen record per file, JSON, units in the names.

`write` replaces the file in one move, so that a killed run leaves the old record or the new one,
never half of one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import paths
from pipeline.errors import ArtifactError


class Record(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=True, ser_json_inf_nan="constants"
    )

    def dumps(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"

    def write(self, path: Path) -> None:
        write_text(path, self.dumps())


class Seal(Record):
    """Of a record: the SHA-256 of what it says, and of each record that it was made from. See
    pipeline/evidence/seals."""

    made_from: dict[str, str]
    sha256: str


class Sealed(Record):
    """`seal` is put there by the stage that writes it; None before, and in what earlier versions
    wrote."""

    seal: Seal | None = None


R = TypeVar("R", bound=Record)


def read(path: Path, record: type[R]) -> R:
    """Raises ArtifactError if the file is missing or is not that record."""
    try:
        return record.model_validate_json(read_text(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtifactError(
            f"{path}: not a {record.__name__} record: {first['loc']}: {first['msg']}"
        ) from error


def read_text(path: Path) -> str:
    """Raises ArtifactError if the file is missing."""
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"{path}: not a record: no UTF-8 text. Run: {paths.producer(path)}"
        ) from error
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path}: missing: the stage that writes it has not run. Run: {paths.producer(path)}"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Replaces the file in one move. The temporary one of a record lies apart, since DVC hashes the
    folders that hold records; of another file beside it, since artifacts/ may be another disk."""
    apart = paths.TEMPORARY if path.is_relative_to(paths.ARTIFACTS) else path.parent
    for folder in (path.parent, apart):
        folder.mkdir(parents=True, exist_ok=True)
    temporary = apart / f"{path.name}.{os.getpid()}"
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:  # of a write, the system does not say to which file
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
