"""Brings an artifact that was made elsewhere, and takes the files that its engine reads. No other
file of it is ever opened."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from pipeline import capabilities, paths
from pipeline.errors import ArtifactError
from pipeline.recipe import Model
from pipeline.records import File, artifact
from pipeline.source import checkpoint
from pipeline.source import files as source

ON_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})")
IR = "openvino_model.xml"
IR_FILES = tuple(
    f"openvino_{part}.{kind}"
    for part in ("model", "tokenizer", "detokenizer")
    for kind in ("xml", "bin")
)
WORTH_SAYING = (
    *source.PICKLES,
    *source.OTHERS,
    ".safetensors",
    ".py",
)  # among what is not taken: weights and code


class Taken(NamedTuple):
    """An artifact's engine and files, and what of weights and code lay beside them."""

    engine: str
    files: list[File]
    left_out: list[str]


def where(given: str) -> Model:
    """What was given: a hub repository as OWNER/NAME@REVISION, or else a folder. Raises
    ArtifactError for neither."""
    if on_hub := ON_HUB.fullmatch(given):
        return Model.model_validate(on_hub.groupdict())
    folder = paths.given(given)
    if not folder.is_dir():
        raise ArtifactError(
            f"{given}: no such folder. Expected a folder, or a hub repository at a commit:"
            " OWNER/NAME@ and 40 hex digits (a branch can move)."
        )
    return Model.model_validate({"path": str(folder)})


def words(model: Model) -> str:
    return model.path or f"{model.repo}@{model.revision}"


def fetch(model: Model) -> Path:
    """The folder of the artifact's files; downloads those that could be taken. Raises
    CheckpointError."""
    if model.path is not None:
        return Path(model.path)
    folder = checkpoint.download(
        str(model.repo), str(model.revision), [*source.COMPANIONS, *IR_FILES]
    )
    return folder if (folder / IR).is_file() else checkpoint.fetch(model)


def take(folder: Path, out: Path, ours: bool) -> Taken:
    """Puts the files that the engine reads into an empty folder. `ours`: the links in it are the
    hub client's own.

    Raises ArtifactError for a link that leaves the folder and where there is no model,
    CheckpointError for pickles alone."""
    form = capabilities.IR if (folder / IR).is_file() else capabilities.SAFETENSORS
    if form == capabilities.SAFETENSORS and not (folder / "config.json").is_file():
        raise ArtifactError(
            f"{folder}: neither {IR} nor config.json. Expected an artifact for OpenVINO or vLLM."
        )
    chosen = _of_ir(folder) if form == capabilities.IR else source.files(folder)
    for path in chosen:
        if not ours and not path.resolve().is_relative_to(folder.resolve()):
            raise ArtifactError(
                f"{path}: a link that leaves its folder. Replace it by the file itself."
            )
        checkpoint.link(path, out / path.name)
    names = {path.name for path in chosen}
    left_out = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix in WORTH_SAYING and path.name not in names
    )
    engine = next(name for name, row in capabilities.ENGINES.items() if row.artifact_format == form)
    return Taken(engine, artifact.hash_files(out), left_out)


def _of_ir(folder: Path) -> list[Path]:
    beside = {
        path for pattern in source.COMPANIONS for path in folder.glob(pattern) if path.is_file()
    }
    beside -= {path for pattern in source.NOT_THE_MODELS for path in folder.glob(pattern)}
    return sorted(beside | {folder / name for name in IR_FILES if (folder / name).is_file()})
