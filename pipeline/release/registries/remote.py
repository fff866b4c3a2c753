"""A folder, or whatever fsspec opens by its URL (file://, s3://, memory://): files that are sent
there and read back, in pieces, so that none is held in memory."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec import asyn

from pipeline.release.registries import shared

PART = 8 << 20  # bytes of one request to S3, of which `AT_ONCE` are held in memory
AT_ONCE = 4
MOST_PARTS = (
    10_000  # of one object: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
)
S3 = ("s3", "s3a")
OBJECTS = (
    *S3,
    "gs",
    "gcs",
    "abfs",
    "abfss",
    "az",
    "oss",
)  # have no folders to make; making one could make a bucket


class Remote:
    def __init__(self, url: str) -> None:
        """Raises RegistryError for a URL that fsspec does not know or whose package is not
        installed."""
        self.url = url
        if url.startswith(tuple(f"{scheme}://" for scheme in S3)):
            shared.needed("s3fs", "s3")
        with shared.asking(url, "opening it", ImportError, ValueError, OSError):
            # Others write there too: listings are never cached.
            self.store, self.root = fsspec.core.url_to_fs(
                url, use_listings_cache=False, skip_instance_cache=True
            )
        names = self.store.protocol
        self.kinds = {names} if isinstance(names, str) else set(names)
        self.local = bool(getattr(self.store, "local_file", False))

    def asking(self, question: str) -> contextlib.AbstractContextManager[None]:
        # The libraries under fsspec have errors of their own (botocore's, for one), without a
        # common base.
        return shared.asking(self.url, question, Exception)

    def send(self, source: Path, path: str) -> None:
        self.make_room(path)
        limits: dict[str, Any] = {}
        if self.kinds & set(S3):
            limits = {
                "chunksize": max(PART, math.ceil(source.stat().st_size / MOST_PARTS)),
                "max_concurrency": AT_ONCE,
            }
        self.store.put_file(str(source), path, **limits)
        if self.local:
            _settle(Path(path))

    def read(self, path: str) -> Iterator[bytes]:
        """In one request where that can be: a request for each part makes a store look the object
        up each time."""
        if self.kinds & set(S3):
            stream = asyn.sync(self.store.loop, self.store.open_async, path, "rb")
            while chunk := asyn.sync(self.store.loop, stream.read, shared.CHUNK):
                yield chunk
            return
        with self.store.open(path, "rb", block_size=PART, cache_type="none") as stream:
            while chunk := stream.read(PART):
                yield chunk

    def make_room(self, path: str) -> None:
        """Makes the folder of a file, where the store has folders."""
        if not self.kinds & set(OBJECTS):
            self.store.makedirs(path.rsplit("/", 1)[0], exist_ok=True)


def _settle(path: Path) -> None:
    """Writes a file out to its disk and drops it from memory, so that reading back reads the
    disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
