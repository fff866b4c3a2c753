"""A folder, or whatever fsspec opens by its URL (file://, s3://, memory://), as a registry:
ROOT/RECIPE/VARIANT/VERSION/FILE.

A version is published once its signature stands in place. On a local folder that is one rename of
the whole version; on an object store
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html) the signature comes
last and is created exclusively. A broken upload to S3 leaves parts that only the bucket's rule
AbortIncompleteMultipartUpload removes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline import paths
from pipeline.errors import RegistryError
from pipeline.records import File
from pipeline.release.registries import NAME, Entry, Progress, shared
from pipeline.release.registries.remote import S3, Remote

COPIED = 256 << 20  # bytes that S3 copies for one request


class Registry(Remote):
    def list(self) -> list[Entry]:
        with self.asking("listing it"):
            if self.local and not self.store.isdir(self.root):
                raise RegistryError(
                    f"{shared.clean(self.url)}: no such folder, so nothing is published there."
                    " Check the name; `quantgate publish` makes the folder."
                )
            triples = [
                (recipe, variant, version)
                for recipe in self._folders()
                for variant in self._folders(recipe)
                for version in self._folders(recipe, variant)
            ]
            entries = [
                Entry(*parts) for parts in triples if all(NAME.fullmatch(part) for part in parts)
            ]
            return sorted(entry for entry in entries if self._is_published(entry))

    def resolve(self, entry: Entry) -> bytes:
        with self.asking(f"reading the signature of {entry}"):
            if not self._is_published(entry):
                raise shared.not_published(self.url, entry)
            return bytes(self.store.cat_file(f"{self._place(entry)}/{paths.SIGNATURE}"))

    def publish(
        self, entry: Entry, bundle: Path, files: Sequence[File], progress: Progress
    ) -> None:
        sent = shared.ordered(files)
        incoming = f"{self.root}/{entry.recipe}/{entry.variant}/.incoming-{entry.version}"
        with self.asking(f"publishing {entry}"):
            self._refuse_published(entry)
            with self._alone(incoming):
                self._refuse_published(entry)
                stands = self._taken_up(sent, incoming, self._place(entry), progress)
                left = [file for file in sent if file.path not in stands]
                for file in left:
                    self.send(bundle / file.path, f"{incoming}/{file.path}")
                for file in left:
                    self._read_back(file, f"{incoming}/{file.path}", progress)
                self._clear(incoming, {file.path for file in sent})
                commit = self._rename if self.local else self._move
                commit(
                    entry,
                    incoming,
                    {file.path: stands.get(file.path, f"{incoming}/{file.path}") for file in sent},
                )

    def fetch(self, entry: Entry, names: Sequence[str], target: Path, progress: Progress) -> None:
        with self.asking(f"fetching {entry}"):
            if not self._is_published(entry):
                raise shared.not_published(self.url, entry)
            for name in names:
                path = f"{self._place(entry)}/{shared.inside(name)}"
                if not self.has(path):
                    raise shared.no_file(self.url, entry, name)
                shared.write(self.read(path), target, name, progress)

    def _place(self, entry: Entry) -> str:
        return f"{self.root}/{entry}"

    def _is_published(self, entry: Entry) -> bool:
        return self.has(f"{self._place(entry)}/{paths.SIGNATURE}")

    def _refuse_published(self, entry: Entry) -> None:
        if self._is_published(entry):
            raise shared.published(self.url, entry)

    def _folders(self, *parts: str) -> Iterator[str]:
        try:
            listing = self.store.ls("/".join([self.root, *parts]), detail=True)
        except (FileNotFoundError, NotADirectoryError):  # nothing was published there yet
            return
        for info in listing:
            if info["type"] == "directory":
                yield info["name"].rstrip("/").rsplit("/", 1)[-1]

    def _taken_up(
        self, files: Sequence[File], incoming: str, final: str, progress: Progress
    ) -> dict[str, str]:
        """Where the files of an earlier, broken try stand whose hash holds: their names, and the
        path of each."""
        stands = {}
        for file in files:
            for folder in (incoming,) if self.local else (final, incoming):
                path = f"{folder}/{file.path}"
                if (
                    self.has(path)
                    and self.store.size(path) == file.size_bytes
                    and shared.holds(file, self.read(path))
                ):
                    stands[file.path] = path
                    progress(file.size_bytes)
                    break
        return stands

    def _read_back(self, file: File, path: str, progress: Progress) -> None:
        if not shared.holds(file, self.read(path), progress):
            self.store.rm_file(path)
            raise shared.altered(self.url, file)

    def _clear(self, folder: str, wanted: set[str]) -> None:
        """Removes what an earlier try of another bundle left."""
        for path in self.store.find(folder):
            if path.removeprefix(f"{folder}/") not in wanted:
                self.store.rm_file(path)

    @contextlib.contextmanager
    def _alone(self, incoming: str) -> Iterator[None]:
        """Raises RegistryError while another process publishes the same into a local folder; a
        killed one holds no lock."""
        if not self.local:
            yield
            return
        Path(incoming).mkdir(parents=True, exist_ok=True)
        handle = os.open(incoming, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise RegistryError(
                f"{shared.clean(self.url)}: another process is publishing this version. Wait"
                " for it."
            ) from error
        finally:
            os.close(handle)

    def _rename(self, entry: Entry, incoming: str, where: dict[str, str]) -> None:
        del where
        for path in (Path(incoming), *Path(incoming).rglob("*")):
            if path.is_dir():
                _sync(path)
        # Fails where the target holds anything: that of another process that published meanwhile,
        # too.
        Path(incoming).rename(self._place(entry))
        _sync(Path(incoming).parent)

    def _move(self, entry: Entry, incoming: str, where: dict[str, str]) -> None:
        final = self._place(entry)
        signature = self.store.cat_file(where[paths.SIGNATURE])
        self._clear(final, set(where) - {paths.SIGNATURE})
        for name, path in where.items():
            if name != paths.SIGNATURE and path != f"{final}/{name}":
                self.make_room(f"{final}/{name}")
                self._move_file(path, f"{final}/{name}")
        self.make_room(f"{final}/{paths.SIGNATURE}")
        try:
            self.store.pipe_file(f"{final}/{paths.SIGNATURE}", signature, mode="create")
        except OSError:
            self._refuse_published(entry)  # another process was first
            raise
        if self.store.exists(incoming):
            self.store.rm(incoming, recursive=True)

    def _move_file(self, path: str, target: str) -> None:
        if self.kinds & set(S3):
            self.store.cp_file(path, target, block=COPIED)
            self.store.rm_file(path)
        else:
            self.store.mv(path, target)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
