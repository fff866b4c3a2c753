"""How long does it take to publish a bundle of 2 GB, and how much memory? Each registry, on a
server on this machine.

    python -m benchmarks.publishing [--gb N] [--kinds folder s3 oci mlflow hub]

The publishing process is one of its own; its peak of resident memory is the kernel's VmHWM
(getrusage's would count its parent's too). Beside it the plainest way to put the same bytes there:
`cp` to the folder, one PUT where one request can do it. Needs 8 GB of disk below artifacts/.tmp,
and the servers of the tests. Writes benchmarks/results/publishing.md."""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import requests

from pipeline import paths
from pipeline.runtime import machine
from tests import registry_servers
from tests.registry_servers import KINDS, Served

LIMIT_MB = 300
BLOCK = 64 << 20
NAME = "model.safetensors"
PUBLISH = """
import sys, time
from pathlib import Path
from pipeline.records import File
from pipeline.release.registries import Entry, open_registry
url, bundle, listing = sys.argv[1:]
lines = map(str.split, Path(listing).read_text().splitlines())
files = [File(path=name, size_bytes=int(size), sha256=sha) for name, size, sha in lines]
def peak_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("VmHWM"))
registry = open_registry(url)
before = peak_kib()
start = time.perf_counter()
registry.publish(Entry("benchmark", "random", "1"), Path(bundle), files, lambda done: None)
print(time.perf_counter() - start, peak_kib(), before)
"""


class Measured(NamedTuple):
    kind: str
    seconds: float
    peak_mb: float
    imported_mb: float
    plain: str
    plain_s: float


def run(kinds: list[str], size: int) -> str:
    paths.TEMPORARY.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="publishing-", dir=paths.TEMPORARY.absolute()
    ) as temporary:
        folder = Path(temporary)
        listing = _make(folder / "bundle", folder / "listing", size)
        found = []
        for kind in kinds:
            if reason := registry_servers.missing(kind):
                print(f"{kind}: left out, {reason}", file=sys.stderr)
                continue
            print(f"publishing benchmark: {kind}", file=sys.stderr, flush=True)
            with (
                tempfile.TemporaryDirectory(prefix=f"{kind}-", dir=folder) as place,
                registry_servers.serving(kind, Path(place)) as server,
            ):
                found.append(_measure(server, folder / "bundle", listing, Path(place)))
    return _page(found, size)


def _make(bundle: Path, listing: Path, size: int) -> Path:
    """Random bytes, which nothing can compress or share."""
    (bundle / "quantgate").mkdir(parents=True)
    rng, digest, left = random.Random(0), hashlib.sha256(), size
    with (bundle / NAME).open("wb") as stream:
        while left:
            block = rng.randbytes(min(BLOCK, left))
            digest.update(block)
            stream.write(block)
            left -= len(block)
    (bundle / paths.SIGNATURE).write_bytes(b"{}")
    listing.write_text(
        f"{NAME} {size} {digest.hexdigest()}\n{paths.SIGNATURE} 2"
        f" {hashlib.sha256(b'{}').hexdigest()}\n"
    )
    return listing


def _measure(server: Served, bundle: Path, listing: Path, place: Path) -> Measured:
    plain, plain_s = _plain(server, bundle / NAME, place)
    command = [sys.executable, "-c", PUBLISH, server.url, str(bundle), str(listing)]
    done = subprocess.run(
        command,
        env={**os.environ, **server.environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds, peak_kib, before_kib = map(float, done.stdout.split()[-3:])
    return Measured(
        server.kind, seconds, peak_kib * 1024 / 1e6, before_kib * 1024 / 1e6, plain, plain_s
    )


def _plain(server: Served, source: Path, place: Path) -> tuple[str, float]:
    """One copy of the same file to the same server without a check: what it is called, and
    seconds."""
    start = time.perf_counter()
    if server.kind == "folder":
        subprocess.run(["cp", str(source), str(place / "copy")], check=True)
        subprocess.run(["sync", str(place / "copy")], check=True)
        seconds = time.perf_counter() - start
        (place / "copy").unlink()
        return "cp, sync", seconds
    with source.open("rb") as stream:
        url = _upload_url(server, hashlib.file_digest(stream, "sha256").hexdigest())
    start = time.perf_counter()
    with source.open("rb") as stream:
        requests.put(
            url, data=stream, headers={"Content-Type": "application/octet-stream"}, timeout=600
        ).raise_for_status()
    seconds = time.perf_counter() - start
    if server.kind == "hub":  # which takes no object twice
        (server.folder / url.rsplit("/", 1)[1]).unlink()
    return "one PUT", seconds


def _upload_url(server: Served, sha256: str) -> str:
    """Where one request puts a file, and nobody looks for it later."""
    if server.kind == "s3":
        return f"{server.environment['AWS_ENDPOINT_URL']}/{registry_servers.BUCKET}/copy"
    if server.kind == "hub":
        return f"{server.environment['HF_ENDPOINT']}/lfs/{sha256}"
    address = server.url.split("+", 1)[1]
    if server.kind == "mlflow":
        return f"{address}/api/2.0/mlflow-artifacts/artifacts/copy"
    opened = requests.post(f"{address.split('/team')[0]}/v2/plain/copy/blobs/uploads/", timeout=60)
    return f"{opened.headers['Location']}&digest=sha256:{sha256}"


def _page(found: list[Measured], size: int) -> str:
    host = machine.describe()
    lines = [
        f"# Publishing {size / 1e9:.1f} GB",
        (
            f"`python -m benchmarks.publishing`, {time.strftime('%Y-%m-%d')}. One file of random"
            " bytes and its signature, sent, read back, compared and committed: each byte crosses"
            " to the server and back. MB/s: the file's size over all that."
        ),
        "",
        (
            "| registry | server | seconds | MB/s | plain copy, unchecked | seconds | peak memory,"
            f" MB | before publishing began | under {LIMIT_MB} |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    servers = {
        "folder": "local disk",
        "s3": "moto",
        "oci": "docker-registry",
        "mlflow": "mlflow server",
        "hub": "stand-in of the tests, Git LFS",
    }
    for each in found:
        met = "yes" if each.peak_mb < LIMIT_MB else "NO"
        lines.append(
            f"| {each.kind} | {servers[each.kind]} | {each.seconds:.1f} |"
            f" {size / 1e6 / each.seconds:.0f} | {each.plain} | {each.plain_s:.1f} |"
            f" {each.peak_mb:.0f} | {each.imported_mb:.0f} | {met} |"
        )
    lines += [
        "",
        (
            f"{host['cpu']}, {host['cores']} cores, {host['system']}; client and server share them;"
            f" load at the end {os.getloadavg()[0]:.1f}. Most of the time with moto is moto's own:"
            " it hashes, joins and copies in Python."
        ),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/publishing.md"))
    given = parser.parse_args()
    page = run(given.kinds, int(given.gb * 1e9))
    given.out.write_text(page)
    print(page)
