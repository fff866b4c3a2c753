"""Bundles to publish, and how the registries' tests publish and fetch them."""

from __future__ import annotations

import random
from pathlib import Path

from pipeline import paths
from pipeline.records import File
from pipeline.records.artifact import hash_files
from pipeline.release.registries import Entry, Registry

WEIGHTS = "model.safetensors"


def make_bundle(folder: Path, seed: int, size: int = 1 << 20) -> Path:
    rng = random.Random(seed)
    contents = {
        WEIGHTS: rng.randbytes(size),
        "config.json": b'{"model_type": "llama"}',
        "README.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
        "a folder/of+odd names.txt": b"text",
        "empty.bin": b"",
        "quantgate/manifest.json": rng.randbytes(200).hex().encode(),
        paths.SIGNATURE: rng.randbytes(200).hex().encode(),
    }
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def publish(registry: Registry, entry: Entry, bundle: Path) -> int:
    """Returns how many bytes were said to be done."""
    done: list[int] = []
    registry.publish(entry, bundle, hash_files(bundle), done.append)
    return sum(done)


def fetched(registry: Registry, entry: Entry, bundle: Path, target: Path) -> list[File]:
    """What comes back, everything else in the folder included."""
    registry.fetch(entry, [file.path for file in hash_files(bundle)], target, lambda done: None)
    return hash_files(target)
