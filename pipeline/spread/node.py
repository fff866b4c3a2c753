"""One job on a node, in the control environment.

    python -m pipeline.spread.node ORDER.json OUTCOME.json CORES PARENT_PID

A working copy of the project is made of files from the store, each hashed; the stage's own command
runs in it and puts its result into the store; the copy is removed. Nothing of a job outlives its
parent."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import records
from pipeline.errors import DiskFull, NoMemory, QuantgateError, StageError
from pipeline.evidence import provenance
from pipeline.records import Order, Outcome, artifact
from pipeline.release.registries import shared
from pipeline.runtime import crash, environments, leash
from pipeline.spread import cores
from pipeline.store.objects import VARIABLE
from pipeline.store.results import Store

DVC = "[core]\n    analytics = false\n    check_update = false\n    no_scm = true\n"
OWN = "quantgate: "  # before the line in which a command says why it ended
LAST_LINES = 20
LACKS: dict[int, type[QuantgateError]] = {
    DiskFull.exit_code: DiskFull,
    NoMemory.exit_code: NoMemory,
    -signal.SIGKILL: NoMemory,  # as the kernel ends what takes too much
}


def main(order_file: str, outcome_file: str, count: str, parent: str) -> int:
    """Writes how it ended; 0 also where the stage failed, which is an outcome."""
    if not leash.tie(int(parent), signal.SIGKILL):
        return 1
    order, start = records.read(Path(order_file), Order), time.monotonic()
    error: QuantgateError | None = None
    try:
        _carry_out(order, int(count))
    except QuantgateError as failed:
        error = failed
    except Exception as unforeseen:
        error = crash.last(order.stage, unforeseen)
    outcome = Outcome.of(order.stage, platform.node(), error, time.monotonic() - start)
    Path(outcome_file).write_text(outcome.dumps())
    return 0


def folder() -> Path:
    """Where this machine's jobs have their working copies and locks."""
    return environments.root().with_name("spread")


def _carry_out(order: Order, count: int) -> None:
    """Raises what the store does, and with the line of a stage that failed StageError, DiskFull or
    NoMemory."""
    store = Store(order.store)
    # nodes may share the folder, and no cores
    locks = folder() / "cores" / platform.node()
    with cores.taken(count, locks) as ours, _working_copy(order, store) as project:
        said = _run(order, project, ours)
        if store.find(order.key) is None:
            raise StageError(
                f"{order.stage}: it ran, but its result is not in the store: {said or 'no word'}"
            )


@contextmanager
def _working_copy(order: Order, store: Store) -> Iterator[Path]:
    """A project with the files of the order and no others."""
    place = folder() / "jobs"
    place.mkdir(parents=True, exist_ok=True)
    _sweep(place)
    project = Path(tempfile.mkdtemp(dir=place))
    with (place / f"{project.name}.lock").open("w") as lock, contextlib.ExitStack() as after:
        fcntl.flock(lock, fcntl.LOCK_EX)
        after.callback(Path(lock.name).unlink)
        after.callback(shutil.rmtree, project, ignore_errors=True)
        for file in order.files:
            store.objects.fetch(file, project / shared.inside(file.path))
        (project / ".dvc").mkdir()
        (project / ".dvc" / "config").write_text(DVC)
        yield project


def _sweep(place: Path) -> None:
    """Removes what killed jobs left."""
    for lock in place.glob("*.lock"):
        if not artifact.is_held(lock.with_suffix("")):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)


def _run(order: Order, project: Path, ours: list[int]) -> str:
    """The stage's command; returns its last line. Raises StageError where it fails, DiskFull or
    NoMemory where that is for lack of something."""
    program, *words = shlex.split(order.command)
    if program != "quantgate":
        raise StageError(
            f"{order.stage}: expected a command of quantgate, found {order.command!r}."
        )
    command = [
        sys.executable,
        leash.__file__,
        str(os.getpid()),
        ",".join(map(str, ours)),
        str(environments.location("control") / "bin" / "quantgate"),
        *words,
    ]
    surroundings = {
        **os.environ,
        VARIABLE: order.store,
        provenance.GIVEN: order.revision.model_dump_json(),
        "QUANTGATE_DEVICE": order.device,
    }
    with subprocess.Popen(
        command,
        cwd=project,
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        lines: deque[str] = deque(maxlen=LAST_LINES)
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.strip())
    if process.returncode == 0:
        return next((line for line in reversed(lines) if line), "")
    own = [line.removeprefix(OWN) for line in lines if line.startswith(OWN)]
    kind = LACKS.get(process.returncode, StageError)
    raise kind(own[-1] if own else _death(order, process.returncode, lines))


def _death(order: Order, code: int, lines: deque[str]) -> str:
    last = next((line for line in reversed(lines) if line), "it said nothing")
    return f"{order.stage}: ended with exit code {code}: {last}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
