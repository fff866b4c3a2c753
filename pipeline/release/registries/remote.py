"""A folder, or whatever fsspec opens by its URL (file://, s3://, memory://): files that are sent
there and read back, in pieces, so that none is held in memory."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec import asyn

from pipeline.errors import RegistryError
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
        """Raises RegistryError for a URL that fsspec does not know, whose package is not
        installed, or which holds what S3 would take for a name."""
        self.url = url
        if url.startswith(tuple(f"{scheme}://" for scheme in S3)):
            shared.needed("s3fs", "s3")
            _refuse_secrets(url)
        with shared.asking(url, "opening it", ValueError, OSError), _package_of(url):
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

    def has(self, path: str) -> bool:
        """Whether a file is there. Unlike fsspec's isfile, which says no of whatever it cannot ask,
        raises what keeps the place from answering."""
        try:
            return bool(self.store.info(path)["type"] == "file")
        except FileNotFoundError as error:
            said = getattr(error.__cause__, "response", {})  # botocore's
            if said.get("Error", {}).get("Code") == "NoSuchBucket":
                raise
            return False

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


def _refuse_secrets(url: str) -> None:
    """S3 has no user in a URL, and no query: they would become part of the bucket's name or of the
    objects', and be shown with these."""
    if shared.clean(url) != url:
        raise RegistryError(
            f"{shared.clean(url)}: expected s3://BUCKET/PREFIX, found more in the URL. Keys are"
            " taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or the machine's"
            " role, an endpoint from AWS_ENDPOINT_URL."
        )


@contextlib.contextmanager
def _package_of(url: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise RegistryError(
            f"{shared.clean(url)}: opening it needs a package that is not installed here: {error}."
            f" Run, with that package: {sys.executable} -m pip install PACKAGE. Each machine that"
            " opens such a URL needs it."
        ) from error


def _settle(path: Path) -> None:
    """Writes a file out to its disk and drops it from memory, so that reading back reads the
    disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
