"""Files by their own SHA-256, in a folder or bucket: objects/AB/ABCDEF...

A file is written under another name and renamed when it is whole; an object store shows one only
when it is whole. A killed writer leaves a file that ends in .part, which nobody reads."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from pipeline.errors import RegistryError, Tampered
from pipeline.records import File
from pipeline.release.registries import shared
from pipeline.release.registries.remote import OBJECTS, Remote

VARIABLE = "QUANTGATE_STORE"
MOST_RECORD_BYTES = 20_000_000  # of a result with a hundred thousand files


class Objects:
    """Every verb raises RegistryError where the place cannot be asked, or refuses."""

    def __init__(self, url: str) -> None:
        """Raises RegistryError for a URL that cannot be opened."""
        self._remote = Remote(url)
        self.url = shared.clean(url)
        self.holds_secret = self.url != url

    def keep(self, file: File, source: Path) -> None:
        """Puts a file there, unless it is there whole."""
        place = self._of(file)
        with self._remote.asking(f"putting {file.path} there"):
            if not (self._remote.has(place) and shared.holds(file, self._remote.read(place))):
                self._whole(place, lambda name: self._remote.send(source, name))

    def fetch(self, file: File, target: Path) -> None:
        """Writes a file to the target. Raises Tampered, and leaves no file, for another content."""
        place = self._of(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._remote.asking(f"fetching {file.path}"):
            if not self._remote.has(place):
                raise RegistryError(
                    f"{self.url}/{_name(file)} is missing, the content of {file.path}."
                    f" Remove the record that names it and run again, or go without the store:"
                    f" {VARIABLE}="
                )
            with target.open("wb") as stream:
                is_whole = shared.holds(file, _copied(self._remote.read(place), stream))
        if not is_whole:
            target.unlink()
            raise self.refused(
                _name(file), f"not {file.path} as it was put there: its size or SHA-256 is another"
            )

    def read(self, name: str) -> bytes | None:
        """A record; None where there is none. Of one that is far too long, the beginning."""
        place, data = self.path(name), bytearray()
        with self._remote.asking(f"reading {name}"):
            if not self._remote.has(place):
                return None
            for chunk in self._remote.read(place):
                data += chunk
                if len(data) > MOST_RECORD_BYTES:
                    break
        return bytes(data)

    def write(self, name: str, text: str) -> None:
        """A record, whole, in the place of an earlier one."""

        def send(place: str) -> None:
            self._remote.make_room(place)
            self._remote.store.pipe_file(place, text.encode())

        with self._remote.asking(f"writing {name}"):
            self._whole(self.path(name), send)

    def path(self, name: str) -> str:
        return f"{self._remote.root}/{name}"

    def refused(self, name: str, reason: str) -> Tampered:
        """Of what is stored under a name. Its path is not shown: fsspec's may have the URL's
        password."""
        return Tampered(
            f"{self.url}/{name}: {reason}. Remove it there and run again, or go without the"
            f" store: {VARIABLE}="
        )

    def _of(self, file: File) -> str:
        return self.path(_name(file))

    def _whole(self, place: str, send: Callable[[str], None]) -> None:
        if self._remote.kinds & set(OBJECTS):
            send(place)
            return
        partial = f"{place}.{secrets.token_hex(8)}.part"
        try:
            send(partial)
            self._remote.store.mv(partial, place)
        except BaseException:
            with contextlib.suppress(Exception):  # of the clearing, beside what stopped it
                self._remote.store.rm_file(partial)
            raise


def _name(file: File) -> str:
    return f"objects/{file.sha256[:2]}/{file.sha256}"


def _copied(chunks: Iterable[bytes], stream: IO[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        stream.write(chunk)
        yield chunk
