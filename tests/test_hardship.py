"""What the system refuses: a read-only project, no room in files, little memory, no git. Each verb
ends with one sentence and nothing half-written; and never with 1, which is a verdict."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline import cli
from pipeline.errors import NoMemory
from pipeline.runtime import crash

WRITE = {
    "signoff key": "signoff key signoff/new.pem --name n@example.org --role reviewer",
    "signoff request": "signoff request tiny ov-int8",
    "signoff approve": "signoff approve tiny ov-int8 --key ../ada@example.org.pem",
    "signoff reject": "signoff reject tiny ov-int8 --key ../ada@example.org.pem --reason bad",
    "publish": "publish tiny ov-bf16 --key ../ci.pem --to registry --version 2",
    "fetch": "fetch ../registry/tiny/ov-int8/1 --to fetched",
    "calibration add": "calibration add ../notes.txt --name notes",
    "init": "init recipes/tiny/checkpoint --name mine",
    "index": "index",
    "pin": "pin tiny",
    "gate": "gate tiny ov-int8",
    "benchmark": "benchmark tiny",
    "report": "report tiny",
    "run": "run tiny --until pin",
    "audit": "audit recipes/tiny/checkpoint --recipe tiny",
}
READ = {
    "verify": "verify ../registry/tiny/ov-int8/1",
    "list": "list ../registry",
    "signoff show": "signoff show tiny ov-int8",
    "signoff verify": "signoff verify tiny ov-int8",
    "require": "require tiny",
    "artifacts": "artifacts",
}
WITHOUT_GIT = ("report", "gate", "verify", "list")  # records say then that nothing is known of it
GIT = ("signoff request", "signoff approve", "publish", *WITHOUT_GIT)
MEMORY = ("verify", "signoff verify", "require", "publish", "init")
UNIMPORTANT = ("artifacts/.tmp", "artifacts/logs", "artifacts/sources", ".git/", "__pycache__")
LITTLE_BYTES = 1 << 20
CLONE_NEWNS, CLONE_NEWUSER = 1 << 17, 1 << 28
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 1 << 5, 1 << 12, 1 << 14, 1 << 18
CANNOT, LONGEST_S = 77, 120
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([__name__])


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def read_only() -> None:
    """For this process alone; permissions would not bind who is root."""
    libc, here, user = ctypes.CDLL(None), str(Path.cwd()).encode(), os.geteuid()
    steps: tuple[Callable[[], int], ...] = (
        lambda: libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0)),
        lambda: libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None),
        lambda: libc.mount(here, here, None, MS_BIND, None),
        lambda: libc.mount(here, here, None, MS_BIND | MS_REMOUNT | MS_RDONLY, None),
    )
    if any(step() for step in steps):
        os._exit(CANNOT)
    if user:
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    os.chdir(here)  # through the mount


def no_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def no_git() -> None:
    os.environ["PATH"] = str(Path("none").absolute())


def little_memory() -> None:
    has = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (has + LITTLE_BYTES, has + LITTLE_BYTES))


def ended(words: str, hold: Callable[[], None], folder: Path) -> Ended:
    """What a command says and ends with, in a process of its own under that hardship. Forked from
    one that has imported what it needs and has no threads, whose locks a fork would inherit."""
    process = SERVER.Process(
        target=_under, args=(words, hold, Path.cwd(), dict(os.environ), folder), daemon=True
    )
    process.start()
    process.join(LONGEST_S)
    if process.exitcode is None:
        process.kill()
        pytest.fail(f"{words}: did not end in {LONGEST_S} s")
    if process.exitcode == CANNOT:
        pytest.skip("this sandbox does not let tests mount a file system")
    out, err = ((folder / name).read_text(errors="replace") for name in ("out", "err"))
    return Ended(process.exitcode, out, err)


def _under(
    words: str, hold: Callable[[], None], place: Path, environment: dict[str, str], folder: Path
) -> None:
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    pipes = []
    for descriptor, name in enumerate(("out", "err"), 1):
        reader, writer = os.pipe()  # a file would have the limit that is tried
        pipes.append((reader, folder / name))
        os.dup2(writer, descriptor)
        os.close(writer)
    child = os.fork()
    if child == 0:
        _run(words, hold)
    os.close(1)
    os.close(2)
    for reader, path in pipes:
        path.write_bytes(os.fdopen(reader, "rb").read())
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _run(words: str, hold: Callable[[], None]) -> None:
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    code = 1  # as Python ends where nobody catches
    try:
        hold()
        code = cli.main(words.split())
        sys.stdout.flush()
    except BaseException as error:
        os.write(2, f"Traceback: {error!r}".encode())
    finally:
        os._exit(code)


@pytest.fixture(scope="module")
def place(published_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a published bundle beside it, which every refusal must leave as it was."""
    folder = tmp_path_factory.mktemp("hardship")
    shutil.copytree(published_once, folder, symlinks=True, dirs_exist_ok=True)
    (folder / "notes.txt").write_text("a text\n" * 50)
    return folder


def state(folder: Path) -> dict[Path, int]:
    """When each file was written that somebody may read later."""
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and not any(part in str(path) for part in UNIMPORTANT)
    }


def refused(said: Ended) -> str:
    """The sentence."""
    assert said.code in (2, NoMemory.exit_code), said  # 3 is "tampered with", and 1 a verdict
    told = said.err[said.err.rindex("quantgate: ") :]
    assert "Traceback" not in said.out + said.err, said
    assert "Check the URL" not in told  # the cause is here
    return told


@pytest.mark.parametrize(
    ("verb", "hold", "remedy"),
    [
        *((verb, read_only, "Make it writable") for verb in WRITE),
        # An audit starts DVC, whose own words for it are "disk I/O error".
        *(
            (verb, no_room, "Raise the limit on the size of files")
            for verb in WRITE
            if verb != "audit"
        ),
    ],
)
def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    verb: str,
    hold: Callable[[], None],
    remedy: str,
) -> None:
    monkeypatch.chdir(place / "project")
    if verb == "index":  # which has something to do
        index = place / "project" / "params.yaml"
        request.addfinalizer(partial(index.write_text, index.read_text()))
        index.write_text("recipes: {}\n")
    before = state(place)
    assert remedy in refused(ended(WRITE[verb], hold, tmp_path))
    assert state(place) == before


@pytest.mark.parametrize("verb", READ)
@pytest.mark.parametrize("hold", [read_only, no_room])
def test_what_only_reads_needs_to_write_nothing(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    hold: Callable[[], None],
) -> None:
    monkeypatch.chdir(place / "project")
    told = ended(READ[verb], hold, tmp_path)
    if (verb, hold) == ("list", no_room):  # which looks at each bundle in a temporary folder
        assert "No usable temporary directory" in refused(told)
    else:
        assert told.code == 0, told


def ends_well(verb: str, hold: Callable[[], None], place: Path, folder: Path) -> str:
    """What is said where it is refused, with nothing changed; empty where it is done."""
    before = state(place)
    told = ended({**WRITE, **READ}[verb], hold, folder)
    if told.code == 0:
        return ""
    assert state(place) == before
    return refused(told)


@pytest.mark.parametrize("verb", GIT)
def test_without_git(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(place / "project")
    message = ends_well(verb, no_git, place, tmp_path)
    assert not message if verb in WITHOUT_GIT else "git" in message


def test_with_little_memory(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For which of them it is too little depends on the machine; for some it is."""
    monkeypatch.chdir(place / "project")
    messages = [ends_well(verb, little_memory, place, tmp_path) for verb in MEMORY]
    assert any("memory" in message for message in messages), messages


def test_a_folder_without_execution_is_not_too_little_memory() -> None:
    unmapped = "libx.so: failed to map segment from shared object"
    assert crash.is_memory(ImportError(unmapped))
    assert not crash.is_memory(ImportError(f"{unmapped}: Operation not permitted"))
