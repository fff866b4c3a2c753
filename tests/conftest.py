from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from hypothesis import HealthCheck, settings

from pipeline import cli
from pipeline.recipe import Recipe, load
from pipeline.runtime import environments

if TYPE_CHECKING:
    from tests.registry_servers import Served

ROOT = Path(__file__).resolve().parent.parent
REAL = Path(os.environ.get("QUANTGATE_REAL_DATA", ROOT.parent / "shared" / "data"))
PROJECT = (
    "pipeline",
    "recipes",
    "calibration",
    "environments",
    "signoff",
    "dvc.yaml",
    "params.yaml",
    ".dvc",
    ".dvcignore",
    ".gitignore",
    "Makefile",
    "artifacts/.gitignore",
)  # fmt: skip  (without the last, DVC writes its own where the report looks)
HTTP_BENCHMARK = "quantgate benchmark tiny --http vllm-bf16"
TWO_BIT = (
    "  rounded-int2: {engine: openvino, quantizer: rounding, weights: int2, group_size: 128}\n"
)
# Fixtures that look at the run of the tiny recipe; the last two ask for it by name, once a test
# runs, which pytest does not tell when it collects.
LOOKING = {"tiny_untouched", "tiny_artifacts", "tiny_served"}


# Of drawn inputs: the same few in each `make test`, and others, for minutes, in `make test-all`
# (--hypothesis-profile=thorough).
UNHURRIED = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("few", derandomize=True, max_examples=100, **UNHURRIED)  # type: ignore[arg-type]
settings.register_profile("thorough", print_blob=True, max_examples=2000, **UNHURRIED)  # type: ignore[arg-type]
settings.load_profile("few")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test` runs those that go on in the run of the tiny recipe in a process of their own,
    beside the others that run engines, and those that run none; those that look at the run come
    last, when the first process has made it."""
    for item in items:
        if "tiny_run" in item.fixturenames:  # type: ignore[attr-defined]
            item.add_marker("tiny")
    items.sort(key=lambda item: bool(LOOKING & set(item.fixturenames)))  # type: ignore[attr-defined]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("real") and not REAL.is_dir():
        pytest.skip(f"no real data at {REAL} (QUANTGATE_REAL_DATA)")
    if item.get_closest_marker("engine"):
        missing = [name for name in environments.NAMES if not environments.is_complete(name)]
        if missing:
            pytest.skip(f"environments {', '.join(missing)} are not installed (make setup)")


def make_project(folder: Path) -> Path:
    """A project of its own in `folder`: what a fresh clone holds, without its results."""
    for name in PROJECT:
        source = ROOT / name
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local")
            shutil.copytree(source, folder / name, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, folder / name)
    return folder


def commit_all() -> None:
    """Puts the project that is the working folder into git, as somebody's own."""
    for arguments in (
        ["init", "-q"],
        ["config", "user.name", "t"],
        ["config", "user.email", "t@example.org"],
        ["add", "-A"],
        ["commit", "-qm", "first"],
    ):
        subprocess.run(["git", *arguments], check=True)


def parsed(*words: str) -> dict[str, Any]:
    """What the `quantgate` command makes of its words. Raises click.UsageError."""
    rest, found = list(words), cli.quantgate
    while isinstance(found, click.Group):
        found = found.commands[rest.pop(0)]
    return found.make_context(words[0], rest).params


def command(
    *arguments: str, timeout_s: float = 1200, **surroundings: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command of the control environment in the working folder."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, **surroundings}
    return subprocess.run(
        arguments, env=env, capture_output=True, text=True, check=False, timeout=timeout_s
    )


def watched(folder: Path) -> dict[str, str]:
    """Variables under which a home folder in `folder` is empty, and its calls.txt tells whom a
    Python process called elsewhere."""
    (folder / "home").mkdir()
    elsewhere = {
        name: str(folder / "home" / ".cache")
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME")
        if name in os.environ
    }
    return {
        "HOME": str(folder / "home"),
        "QUANTGATE_ENVIRONMENTS": str(environments.root()),
        "QUANTGATE_CALLS": str(folder / "calls.txt"),
        "PYTHONPATH": str(ROOT / "tests" / "watch"),
        **elsewhere,
    }


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe, timed less often, and a 2-bit variant taken all the way by DVC, once for
    all processes of `make test`: `run`, and an `untouched` copy of it."""
    folder = Path(os.environ.get("QUANTGATE_TINY_RUN") or tmp_path_factory.mktemp("tiny"))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "run").exists():
            _run_tiny(make_project(folder / "run"))
            shutil.copytree(
                folder / "run",
                folder / "untouched",
                symlinks=True,
                ignore=shutil.ignore_patterns("cache"),
            )
    assert (folder / "untouched").exists(), "the other process could not make it"
    return folder


def _run_tiny(folder: Path) -> None:
    recipe = folder / "recipes" / "tiny.yaml"
    recipe.write_text(recipe.read_text().replace("repeats: 4", "repeats: 3") + TWO_BIT)
    with contextlib.chdir(folder):
        command(
            "quantgate", "index"
        )  # or `make repro` would, and all would be made by an uncommitted project
        commit_all()
        done = command(
            "make", "repro", f"PYTHON={sys.executable}", timeout_s=3600, **watched(folder.parent)
        )
    said = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert done.returncode != 0, f"dvc repro passed in spite of the 2-bit variant:\n{said}"
    assert "rounded-int2 (FAIL)" in done.stderr, said
    (folder.parent / "said.txt").write_text(done.stdout + done.stderr)


@pytest.fixture(scope="session")
def tiny_run(tiny_folder: Path) -> Path:
    """That project, for tests that go on in it."""
    return tiny_folder / "run"


@pytest.fixture(scope="session")
def tiny_untouched(tiny_folder: Path) -> Path:
    """That project as `make repro` left it, for tests that only look."""
    return tiny_folder / "untouched"


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Served]]:
    """Starts a kind of server (tests/registry_servers.py) when a test first wants it; all stop with
    the session."""
    from tests import registry_servers

    started: dict[str, Served] = {}
    with contextlib.ExitStack() as stack:

        def get(kind: str) -> Served:
            if reason := registry_servers.missing(kind):
                pytest.skip(reason)
            if kind not in started:
                started[kind] = stack.enter_context(
                    registry_servers.serving(kind, tmp_path_factory.mktemp(kind))
                )
            return started[kind]

        yield get


@pytest.fixture(scope="session")
def http_benchmark(tiny_run: Path) -> subprocess.CompletedProcess[str]:
    """The README's HTTP benchmark, once for all tests that look at it."""
    with contextlib.chdir(tiny_run):
        return command(*HTTP_BENCHMARK.split())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def measured_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose stages have all run, by its records, with its reports; in git, with a policy
    and keys beside it."""
    from tests import measured, release

    folder = make_project(tmp_path_factory.mktemp("measured") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("gc.collect", lambda generation=2: 0)
        release.start(measured.build())
    return folder


@pytest.fixture
def measured(measured_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A copy of that project, as the working folder."""
    shutil.copytree(measured_once.parent, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "project")
    return load("tiny")


@pytest.fixture(scope="session")
def published_once(measured_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a published bundle, and with another variant's sign-off, which can be
    replayed."""
    from tests import release

    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(measured_once.parent, folder, symlinks=True, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "project")
        patch.setattr("gc.collect", lambda generation=2: 0)
        release.approve()
        release.approve("ov-bf16")
        release.published()
    return folder


@pytest.fixture
def bundle(published_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The published bundle, in a copy of that project."""
    shutil.copytree(published_once, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "project")
    return Path("../registry/tiny/ov-int8/1")


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)
    return ROOT


@pytest.fixture
def quick_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """No garbage collection, which statsmodels' multipletests asks for each time (0.1 s)."""
    monkeypatch.setattr("gc.collect", lambda generation=2: 0)
