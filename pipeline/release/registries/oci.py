"""An OCI registry: oci://HOST/PREFIX, or oci+http://HOST:PORT/PREFIX without encryption. One
repository PREFIX/RECIPE/VARIANT, the version is the tag, each file a layer.

The artifact is a CNCF ModelPack (https://github.com/modelpack/model-spec, docs/spec.md and
docs/config.md); with the title annotation `oras pull` writes the files too. The tag is put last and
makes a version published; the protocol has no way to put it only if it is new, so of two who
publish the same version at the same instant the later one wins."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.errors import RegistryError
from pipeline.records import File
from pipeline.release.registries import NAME, Entry, Progress, shared

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
WEIGHTS = "application/vnd.cncf.model.weight.v1.raw"
SETTINGS = "application/vnd.cncf.model.weight.config.v1.raw"
DOCUMENT = "application/vnd.cncf.model.doc.v1.raw"
FILE_PATH = "org.cncf.model.filepath"
TITLE = "org.opencontainers.image.title"
FORMATS = {".safetensors": "safetensors", ".bin": "openvino", ".gguf": "gguf"}
# A part of a repository's name: OCI distribution specification 1.1, "Pulling manifests".
PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")


class Registry:
    def __init__(self, url: str) -> None:
        """Raises RegistryError without the package oras, or for a prefix that no repository can
        have."""
        self.url = url
        scheme, _, rest = url.partition("://")
        place, _, prefix = rest.strip("/").partition("/")
        self.user, _, self.host = place.rpartition("@")
        self.plain = scheme == "oci+http"
        self.prefix = f"{prefix}/" if prefix else ""
        shared.needed("oras", "oci")
        self.library = shared.needed("pipeline.release.registries.oci_client", "oci")
        for part in filter(None, prefix.split("/")):
            self._refuse_part(part)

    def list(self) -> list[Entry]:
        with self._asking("listing it"):
            names = [
                name.removeprefix(self.prefix).split("/")
                for page in self.client.pages("/v2/_catalog")
                for name in page.get("repositories") or []
                if name.startswith(self.prefix)
            ]
            triples = [
                (*name, tag)
                for name in names
                if len(name) == 2
                for tag in self._tags("/".join(name))
            ]
            entries = [
                Entry(*parts) for parts in triples if all(NAME.fullmatch(part) for part in parts)
            ]
            return sorted(
                entry
                for entry in entries
                if paths.SIGNATURE in _layers(self._manifest(entry) or b"{}")
            )

    def resolve(self, entry: Entry) -> bytes:
        with self._asking(f"reading the signature of {entry}"):
            return b"".join(self._read(entry, self._published(entry)[paths.SIGNATURE]))

    def publish(
        self, entry: Entry, bundle: Path, files: Sequence[File], progress: Progress
    ) -> None:
        sent = shared.ordered(files)
        for part in (entry.recipe, entry.variant):
            self._refuse_part(part)
        with self._asking(f"publishing {entry}"):
            self._refuse_published(entry)
            config = _config(entry, sent)
            self._send_config(entry, config)
            for file in sent:
                self._send(entry, bundle, file)
            manifest = _manifest(config, sent)
            digest = _digest(manifest)
            self._put(entry, digest, manifest)
            for file in sent:
                if not shared.holds(file, self._read(entry, f"sha256:{file.sha256}"), progress):
                    raise shared.altered(self.url, file)
            if (
                self._get(entry, digest) != manifest
                or b"".join(self._read(entry, _digest(config))) != config
            ):
                raise RegistryError(
                    f"{shared.clean(self.url)}: {entry}: the manifest read back is not the one"
                    " sent. Nothing was tagged."
                )
            self._refuse_published(entry)
            self._put(entry, entry.version, manifest)

    def fetch(self, entry: Entry, names: Sequence[str], target: Path, progress: Progress) -> None:
        with self._asking(f"fetching {entry}"):
            layers = self._published(entry)
            for name in names:
                if name not in layers:
                    raise shared.no_file(self.url, entry, name)
                shared.write(self._read(entry, layers[name]), target, name, progress)

    @functools.cached_property
    def client(self) -> Any:
        return self.library.Client(self.host, self.plain, self.user)

    def _asking(self, question: str) -> Any:
        # oras raises requests' errors, ValueError for what it did not expect, and its own for a
        # refused login.
        return shared.asking(self.url, question, Exception)

    def _refuse_part(self, part: str) -> None:
        if not PART.fullmatch(part):
            raise RegistryError(
                f"{shared.clean(self.url)}: {part!r} cannot be part of a repository's name;"
                " expected a-z and 0-9 with single '.' or '_', or '-', only between them. Give"
                " another name."
            )

    def _repository(self, entry: Entry) -> Any:
        return self.client.repository(self.host, f"{self.prefix}{entry.recipe}/{entry.variant}")

    def _tags(self, name: str) -> Iterator[str]:
        for page in self.client.pages(f"/v2/{self.prefix}{name}/tags/list"):
            yield from page.get("tags") or []

    def _get(self, entry: Entry, reference: str) -> bytes | None:
        """The bytes of a manifest by its tag or digest, None if it is not there."""
        url = f"{self.client.prefix}://{self._repository(entry).manifest_url(reference)}"
        answer = self.client.do_request(url, "GET", headers={"Accept": MANIFEST})
        if answer.status_code == 404:
            return None
        self.library.require(answer, f"reading the manifest {reference}")
        return bytes(answer.content)

    def _manifest(self, entry: Entry) -> bytes | None:
        return self._get(entry, entry.version)

    def _published(self, entry: Entry) -> dict[str, str]:
        manifest = self._manifest(entry)
        layers = _layers(manifest) if manifest is not None else {}
        if paths.SIGNATURE not in layers:
            raise shared.not_published(self.url, entry)
        return layers

    def _refuse_published(self, entry: Entry) -> None:
        if self._manifest(entry) is not None:  # also a tag of somebody else's
            raise shared.published(self.url, entry)

    def _put(self, entry: Entry, reference: str, manifest: bytes) -> None:
        url = f"{self.client.prefix}://{self._repository(entry).manifest_url(reference)}"
        answer = self.client.do_request(
            url, "PUT", data=manifest, headers={"Content-Type": MANIFEST}
        )
        self.library.require(answer, f"putting the manifest {reference}")

    def _send(self, entry: Entry, bundle: Path, file: File) -> None:
        repository, layer = (
            self._repository(entry),
            {"digest": f"sha256:{file.sha256}", "size": file.size_bytes},
        )
        if not self.client.blob_exists(layer, repository):
            answer = self.client.chunked_upload(
                str(bundle / file.path), repository, layer, chunk_size=self.library.PART
            )
            self.library.require(answer, f"sending {file.path}")

    def _send_config(self, entry: Entry, config: bytes) -> None:
        repository, layer = (
            self._repository(entry),
            {"digest": _digest(config), "size": len(config)},
        )
        if not self.client.blob_exists(layer, repository):
            opened = self.client.do_request(
                f"{self.client.prefix}://{repository.upload_blob_url()}", "POST"
            )
            self.library.require(opened, "opening an upload")
            url = self.library.with_digest(self.client, opened, repository, layer["digest"])
            self.library.require(
                self.client.do_request(url, "PUT", data=config), "sending the configuration"
            )

    def _read(self, entry: Entry, digest: str) -> Iterator[bytes]:
        with self.client.get_blob(self._repository(entry), digest, stream=True) as answer:
            self.library.require(answer, f"reading {digest}")
            yield from answer.iter_content(shared.CHUNK)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _layers(manifest: bytes) -> dict[str, str]:
    """Digest of each file of a model's manifest by its path; empty for any other artifact."""
    try:
        read = json.loads(manifest)
        if read.get("artifactType") != ARTIFACT:
            return {}
        digests = {
            (layer.get("annotations") or {}).get(FILE_PATH): layer["digest"]
            for layer in read["layers"]
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RegistryError(
            f"the registry gave what is no OCI manifest ({type(error).__name__}:"
            f" {str(error)[:100]})."
        ) from error
    return {path: digest for path, digest in digests.items() if isinstance(path, str)}


def _manifest(config: bytes, files: Sequence[File]) -> bytes:
    """The same bytes for the same files: a second try finds the first one's."""
    layers = [
        {
            "mediaType": _kind(file.path),
            "digest": f"sha256:{file.sha256}",
            "size": file.size_bytes,
            "annotations": {FILE_PATH: file.path, TITLE: file.path},
        }
        for file in files
    ]
    about = {"mediaType": CONFIG, "digest": _digest(config), "size": len(config)}
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": ARTIFACT,
            "config": about,
            "layers": layers,
        }
    ).encode()


def _config(entry: Entry, files: Sequence[File]) -> bytes:
    """Model configuration: a raw layer is its own uncompressed content, so its diffId is its
    digest."""
    formats = {
        FORMATS[Path(file.path).suffix] for file in files if Path(file.path).suffix in FORMATS
    }
    about: dict[str, Any] = {
        "descriptor": {
            "name": f"{entry.recipe}-{entry.variant}",
            "version": entry.version,
            "title": str(entry),
        },
        "config": {
            "architecture": "transformer",
            **({"format": formats.pop()} if len(formats) == 1 else {}),
        },
        "modelfs": {"type": "layers", "diffIds": [f"sha256:{file.sha256}" for file in files]},
    }
    return json.dumps(about).encode()


def _kind(name: str) -> str:
    path = Path(name)
    if (
        path.parts[0] == "quantgate"
        or path.suffix == ".md"
        or path.stem.upper() in ("LICENSE", "NOTICE")
    ):
        return DOCUMENT
    return WEIGHTS if path.suffix in FORMATS else SETTINGS
