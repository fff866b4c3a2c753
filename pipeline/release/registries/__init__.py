"""Where published bundles are kept: the table of registries, and what each of them must do.

A registry holds whole bundles (pipeline/release/bundle), each under recipe, variant and version. It
is believed nothing: who publishes reads everything back, who fetches checks the signature first and
every hash before a file is used. Each is one file beside this."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.errors import RegistryError
from pipeline.records import File

# URL scheme -> module with `Registry(url)`. Every other scheme, and a path without one, is
# fsspec's.
SCHEMES = {
    "oci": "pipeline.release.registries.oci",
    "oci+http": "pipeline.release.registries.oci",
    "mlflow+http": "pipeline.release.registries.mlflow",
    "mlflow+https": "pipeline.release.registries.mlflow",
    "hf": "pipeline.release.registries.hub",
}
FOLDER = "pipeline.release.registries.folder"
Progress = Callable[
    [int], None
]  # told how many more bytes are read back (publish) or written (fetch): each byte once
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


@dataclass(frozen=True, order=True)
class Entry:
    """What a bundle is published as. All three hold [a-z0-9._-] only, so that each is a path part,
    a tag and a name anywhere.

    Raises RegistryError for any other name.
    """

    recipe: str
    variant: str
    version: str

    def __post_init__(self) -> None:
        for part in ("recipe", "variant", "version"):
            name = getattr(self, part)
            if not NAME.fullmatch(name):
                raise RegistryError(
                    f"{part}: found {name!r}, expected a-z, 0-9, '.', '_' and '-', first a letter"
                    " or digit, 128 at most. Give it such a name."
                )

    def __str__(self) -> str:
        return f"{self.recipe}/{self.variant}/{self.version}"


class Registry(Protocol):
    """Raises RegistryError: what was asked of which URL, what came back, and what to do."""

    def list(self) -> list[Entry]:
        """What was published whole, sorted; never anything half-published."""

    def resolve(self, entry: Entry) -> bytes:
        """The signature of a published bundle: its file paths.SIGNATURE. Raises RegistryError if it
        is not published."""

    def publish(
        self, entry: Entry, bundle: Path, files: Sequence[File], progress: Progress
    ) -> None:
        """Uploads under a temporary name, reads all back, compares the hashes, and then commits in
        one step.

        `files` are all files of the bundle, its signature included. What an earlier, broken try
        left is taken up where its hashes hold. Raises RegistryError if the entry is published
        already, or if what arrived is not what was sent."""

    def fetch(self, entry: Entry, names: Sequence[str], target: Path, progress: Progress) -> None:
        """Writes the named files of a published bundle into the folder. The caller checks them."""


def open_registry(url: str) -> Registry:
    """The registry at a URL. Raises RegistryError for one that cannot be."""
    if not url.strip():
        raise RegistryError("the registry's URL is empty. Give a folder or a URL.")
    scheme = url.split("://", maxsplit=1)[0] if "://" in url else ""
    module = importlib.import_module(SCHEMES.get(scheme, FOLDER))
    registry: Registry = module.Registry(url)
    return registry


def split(url: str) -> tuple[str, Entry]:
    """A registry's URL and the entry in it: URL/RECIPE/VARIANT/VERSION. Raises RegistryError if the
    three are not there."""
    parts = url.rstrip("/").rsplit("/", maxsplit=3)
    if len(parts) != 4 or not all(parts):
        raise RegistryError(
            f"{url}: expected REGISTRY/RECIPE/VARIANT/VERSION. See: quantgate list REGISTRY"
        )
    return parts[0], Entry(*parts[1:])
