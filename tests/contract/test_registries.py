"""What every registry promises, on real servers (tests/registry_servers.py)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs

from pipeline import paths
from pipeline.errors import RegistryError
from pipeline.records import File
from pipeline.records.artifact import hash_files
from pipeline.release.registries import Entry, Registry, open_registry, split
from tests import registry_servers
from tests.bundles import WEIGHTS, fetched, make_bundle, publish
from tests.conftest import ROOT
from tests.registry_servers import KINDS, Served, use

BYTES = 17 << 20  # several parts of an upload to S3 and to an OCI registry
OURS = "pipeline.release.registries"
MODULES = {
    "folder": f"{OURS}.folder",
    "s3": "s3fs",
    "oci": f"{OURS}.oci_client",
    "mlflow": "mlflow",
    "hub": f"{OURS}.hub",
}
KILLS = [pytest.param(3, id="3-kills"), pytest.param(20, id="20-kills", marks=pytest.mark.thorough)]


@pytest.fixture(params=KINDS)
def served(
    request: pytest.FixtureRequest,
    servers: Callable[[str], Served],
    monkeypatch: pytest.MonkeyPatch,
) -> Served:
    return use(servers(request.param), monkeypatch)


@pytest.fixture
def registry(served: Served) -> Registry:
    return open_registry(served.url)


@pytest.fixture
def large(bundle: Path, entry: Entry) -> Path:
    return make_bundle(bundle, int(entry.recipe.removeprefix("recipe-"), 16), BYTES)


def stored(server: Served, file: File) -> Path:
    """Where a server keeps a file's content."""
    for path in server.folder.rglob("*"):
        if (
            path.is_file()
            and path.stat().st_size == file.size_bytes
            and hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
        ):
            return path
    raise AssertionError(f"{file.path} is nowhere below {server.folder}")


def alter(server: Served, entry: Entry, file: File) -> None:
    """Changes one byte of what a server was sent."""
    if server.kind == "s3":
        store = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
        place = f"{server.url}/{entry.recipe}/{entry.variant}/.incoming-{entry.version}/{file.path}"
        data = bytearray(store.cat_file(place))
        data[len(data) // 2] ^= 1
        store.pipe_file(place, bytes(data))
        return
    path = stored(server, file)
    with path.open("r+b") as stream:
        stream.seek(file.size_bytes // 2)
        byte = stream.read(1)[0]
        stream.seek(file.size_bytes // 2)
        stream.write(bytes([byte ^ 1]))


def sent(server: Served, file: File) -> object:
    """Changes whenever the file is sent to the server once more."""
    if server.kind == "s3":
        assert server.log
        return sum(" 200 " in line and file.path in line and "PUT" in line and "incoming" in line
                   for line in server.log.read_text().splitlines())  # fmt: skip
    about = stored(server, file).stat()
    return about.st_ino, about.st_mtime_ns


class Broken(Exception):
    """What a broken connection is to the one who publishes."""


def break_off(registry: Registry, entry: Entry, bundle: Path) -> None:
    """Publishes until all is sent and the first bytes are read back."""

    def stop(done: int) -> None:
        raise Broken

    with pytest.raises((Broken, RegistryError)):
        registry.publish(entry, bundle, hash_files(bundle), stop)


def file_of(bundle: Path, name: str) -> File:
    return next(file for file in hash_files(bundle) if file.path == name)


def of(registry: Registry, entry: Entry) -> list[Entry]:
    """What is published under the test's own recipe."""
    return [each for each in registry.list() if each.recipe == entry.recipe]


def test_what_is_published_is_listed_and_comes_back(
    registry: Registry, entry: Entry, large: Path, tmp_path: Path
) -> None:
    bundle = large
    assert of(registry, entry) == []
    assert publish(registry, entry, bundle) == sum(file.size_bytes for file in hash_files(bundle))
    newer = Entry(entry.recipe, entry.variant, "1.1.0")
    publish(registry, newer, bundle)
    assert of(registry, entry) == [entry, newer]
    assert registry.resolve(entry) == (bundle / paths.SIGNATURE).read_bytes()
    assert fetched(registry, entry, bundle, tmp_path / "back") == hash_files(bundle)
    assert not [
        path for path in tmp_path.iterdir() if path.name.startswith(".")
    ]  # no leftovers beside the bundle


def test_it_never_overwrites(
    registry: Registry, entry: Entry, bundle: Path, tmp_path: Path
) -> None:
    publish(registry, entry, bundle)
    other = make_bundle(tmp_path / "other", 1)
    for again in (bundle, other):
        with pytest.raises(RegistryError, match=r"1\.0\.0 is published already"):
            publish(registry, entry, again)
    assert fetched(registry, entry, bundle, tmp_path / "back") == hash_files(bundle)


def test_an_altered_byte_is_refused(
    served: Served, registry: Registry, entry: Entry, bundle: Path
) -> None:
    """Altered where the server keeps it, when all is sent and the first file is being read back."""
    altered: list[int] = []

    def progress(done: int) -> None:
        if not altered:
            alter(served, entry, file_of(bundle, WEIGHTS))
        altered.append(done)

    with pytest.raises(RegistryError, match=rf"{WEIGHTS}: what was read back is not what was sent"):
        registry.publish(entry, bundle, hash_files(bundle), progress)
    assert of(registry, entry) == []
    with pytest.raises(RegistryError, match="is not published there"):
        registry.resolve(entry)


def test_a_broken_upload_is_taken_up(
    served: Served, registry: Registry, entry: Entry, bundle: Path, tmp_path: Path
) -> None:
    break_off(registry, entry, bundle)
    assert of(registry, entry) == []
    with pytest.raises(RegistryError, match="is not published there"):
        registry.fetch(entry, [WEIGHTS], tmp_path / "half", lambda done: None)
    before = sent(served, file_of(bundle, WEIGHTS))
    assert publish(registry, entry, bundle) == sum(file.size_bytes for file in hash_files(bundle))
    assert before
    assert sent(served, file_of(bundle, WEIGHTS)) == before
    assert fetched(registry, entry, bundle, tmp_path / "back") == hash_files(bundle)


def test_a_broken_upload_of_another_bundle_leaves_nothing(
    registry: Registry, entry: Entry, bundle: Path, tmp_path: Path
) -> None:
    other = make_bundle(tmp_path / "other", 1)
    (other / "stranger.txt").write_text("of an earlier try")
    break_off(registry, entry, other)
    publish(registry, entry, bundle)
    assert fetched(registry, entry, bundle, tmp_path / "back") == hash_files(bundle)
    with pytest.raises(RegistryError, match=r"stranger\.txt"):
        registry.fetch(entry, ["stranger.txt"], tmp_path / "back", lambda done: None)


def test_what_was_not_published(registry: Registry, entry: Entry, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"is not published there\. See: quantgate list"):
        registry.resolve(entry)
    with pytest.raises(RegistryError, match="is not published there"):
        registry.fetch(entry, [WEIGHTS], tmp_path, lambda done: None)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "a/../../b", "a//b", "a\\..\\b", "a\nb", "."]
)
def test_names_that_leave_the_folder(
    registry: Registry, entry: Entry, bundle: Path, tmp_path: Path, name: str
) -> None:
    files = [*hash_files(bundle), File(path=name, size_bytes=1, sha256="0" * 64)]
    with pytest.raises(RegistryError, match="expected a path inside the bundle"):
        registry.publish(entry, bundle, files, lambda done: None)
    assert of(registry, entry) == []


def test_a_name_that_leaves_the_folder_is_not_fetched(
    registry: Registry, entry: Entry, bundle: Path, tmp_path: Path
) -> None:
    publish(registry, entry, bundle)
    with pytest.raises(RegistryError):
        registry.fetch(entry, ["../outside"], tmp_path / "back", lambda done: None)
    assert not (tmp_path / "outside").exists()


def test_an_unsigned_bundle(registry: Registry, entry: Entry, bundle: Path) -> None:
    (bundle / paths.SIGNATURE).unlink()
    with pytest.raises(RegistryError, match=r"no quantgate/bundle\.dsse\.json"):
        publish(registry, entry, bundle)


def test_two_at_once(
    served: Served, registry: Registry, entry: Entry, bundle: Path, tmp_path: Path
) -> None:
    """The second one begins when all of the first one is sent: one of them is refused, the other
    one is published whole."""
    other = make_bundle(tmp_path / "other", 1)
    ended: list[Path] = []

    def publish_one(which: Path, progress: Callable[[int], None]) -> None:
        with contextlib.suppress(RegistryError):
            open_registry(served.url).publish(entry, which, hash_files(which), progress)
            ended.append(which)

    begun: list[int] = []

    def progress(done: int) -> None:
        begun.append(done)
        if len(begun) == 1:
            publish_one(other, lambda done: None)

    publish_one(bundle, progress)
    assert len(ended) == 1
    assert fetched(registry, entry, bundle, tmp_path / "back") == hash_files(ended[0])


@pytest.mark.parametrize("kills", KILLS)
def test_killed_while_publishing(
    served: Served, registry: Registry, entry: Entry, tmp_path: Path, kills: int
) -> None:
    """Each time another bundle: what a registry has of one it does not take again, and that is soon
    over."""
    rng, unfinished, bundles, took = random.Random(f"{served.kind} {kills}"), 0, {}, float("inf")
    command = [
        sys.executable,
        "-m",
        "tests.contract.publish_probe",
        served.url,
        MODULES[served.kind],
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as probe:
        for number in range(kills + 1):
            version = Entry(entry.recipe, entry.variant, str(number))
            bundles[version] = bundle = make_bundle(
                tmp_path / f"bundle-{number}", rng.randrange(1 << 30), BYTES
            )
            took = run_and_kill(
                probe, version, bundle, rng.uniform(0, took) if number else None, took
            )
            if version not in of(registry, entry):
                try:
                    publish(registry, version, bundle)
                    unfinished += 1
                except (
                    RegistryError
                ) as error:  # the server was still at the last request of the killed one
                    assert "is published already" in str(error)
            assert of(registry, entry) == sorted(bundles)
            assert fetched(
                registry, version, bundle, tmp_path / "back" / version.version
            ) == hash_files(bundle)
    assert not list(tmp_path.glob(".*"))  # what was being read back when it was killed
    assert unfinished >= kills // 3, (
        f"{unfinished} of {kills} kills came before the end of publishing, {took:.2f} s"
    )


def run_and_kill(
    probe: subprocess.Popen[str], entry: Entry, bundle: Path, after_s: float | None, took: float
) -> float:
    """Publishes in a process of its own and kills that; None lets it finish. Returns how long it
    takes to publish, in seconds: `took`, or less, where this one was done before it was killed. The
    machine has other work too."""
    assert probe.stdin and probe.stdout
    probe.stdin.write(f"{bundle} {entry.recipe} {entry.variant} {entry.version}\n")
    probe.stdin.flush()
    child = int(probe.stdout.readline())
    if after_s is not None:
        time.sleep(after_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    status, seconds = probe.stdout.readline().split()
    assert status == "0" or after_s is not None
    return min(took, float(seconds)) if status == "0" else took


@pytest.mark.parametrize("name", ["", "..", "A", "a/b", "a b", "-a", ".a", "é", "a" * 129])
def test_names_of_entries(name: str) -> None:
    for parts in ((name, "v", "1"), ("r", name, "1"), ("r", "v", name)):
        with pytest.raises(RegistryError, match="expected a-z, 0-9"):
            Entry(*parts)


def test_a_url_with_an_entry() -> None:
    assert split("oci://host/models/tiny/int4/1.0") == (
        "oci://host/models",
        Entry("tiny", "int4", "1.0"),
    )


@pytest.mark.parametrize("scheme", ["oci+http", "mlflow+http"])
def test_nobody_there(scheme: str, entry: Entry) -> None:
    """Said soon, and without the password, which no traceback shows either."""
    registry = open_registry(
        f"{scheme}://user:hidden-word@127.0.0.1:{registry_servers.free_port()}"
    )
    start = time.monotonic()
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1.*Check the URL") as caught:
        registry.resolve(entry)
    assert time.monotonic() - start < 15
    assert "hidden-word" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("s3://bucket", "s3fs", "s3"),
        ("oci://host/models", "oras", "oci"),
        ("mlflow+http://host", "mlflow", "mlflow"),
    ],
)
def test_a_missing_package_names_its_extra(url: str, module: str, extra: str) -> None:
    script = (
        f"import sys; sys.modules[{module!r}] = None; from pipeline.release.registries import"
        f" open_registry; open_registry({url!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert f"RegistryError: {module}: not installed here" in done.stderr.replace(
        "pipeline.errors.", ""
    )
    assert f"pip install 'quantgate[{extra}]'" in done.stderr
