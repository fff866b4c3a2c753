"""Publishes a bundle. What is sent was verified here first, by its own hashes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

from tqdm import tqdm

from pipeline import paths
from pipeline.errors import RegistryError
from pipeline.records import File, artifact
from pipeline.release import registries
from pipeline.release.registries import Entry, Progress, Registry
from pipeline.runtime import process


def publish(name: str, variant_name: str, url: str, key: str, version: str | None) -> None:
    """Raises ArtifactError for anything stale, Rejected unless signed off, RegistryError if it is
    there already."""
    registry = registries.open_registry(url)
    with artifact.stage_folder(f"publish@{name}--{variant_name}") as folder:
        job = {
            "recipe": name,
            "variant": variant_name,
            "key": key,
            "version": version,
            "out": str(folder / "bundle"),
        }
        done = process.run("control", "prepare", job, folder).value
        entry = Entry(name, variant_name, done["version"])
        files = [File.model_validate(file) for file in done["files"]]
        with progress_of(f"publish {entry}", files) as progress:
            registry.publish(entry, folder / "bundle", files, progress)
        _require_same(registry, entry, files)
    print(f"published: {url.rstrip('/')}/{entry}")


def _require_same(registry: Registry, entry: Entry, files: list[File]) -> None:
    sent = next(file for file in files if file.path == paths.SIGNATURE)
    if hashlib.sha256(registry.resolve(entry)).hexdigest() != sent.sha256:
        raise RegistryError(
            f"{entry}: the registry has another bundle under this name: somebody published at the"
            " same time."
        )


@contextlib.contextmanager
def progress_of(label: str, files: list[File]) -> Iterator[Progress]:
    total = sum(file.size_bytes for file in files)
    with tqdm(total=total, desc=label, unit="B", unit_scale=True, mininterval=2) as bar:
        yield lambda count: bar.update(count) and None
