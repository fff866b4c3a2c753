"""`quantgate deploy-files`: all files of a target in one folder, or none."""

from __future__ import annotations

import datetime
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import SetupError
from pipeline.gateway import deploy_file
from pipeline.gateway.files import (
    compose,
    kubernetes,
    litellm,
    monitoring,
    plan,
    systemd,
)
from pipeline.gateway.files.image import DEFAULT
from pipeline.gateway.files.plan import Plan

Files = dict[str, str]
README = "README.md"
# Of each target: its files by name, and the commands that come next.
TARGETS: dict[str, tuple[Callable[[Plan], Files], Callable[[Plan], list[str]]]] = {
    "compose": (compose.files, compose.steps),
    "kubernetes": (kubernetes.files, kubernetes.steps),
    "systemd": (systemd.files, systemd.steps),
    "litellm": (litellm.files, litellm.steps),
}
MONITORING = "monitoring"
KINDS = (*TARGETS, MONITORING)


def write(path: Path, kind: str, out: Path, image: str | None) -> None:
    """Raises RecipeError for a deployment that this target cannot run; Tampered, Rejected or
    RegistryError for a bundle that may not be served now; SetupError for a folder that is in the
    way."""
    if kind not in KINDS:
        raise SetupError(f"--to: found {kind!r}, expected one of {', '.join(KINDS)}.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise SetupError(f"{out}: there is something already. Name a folder that does not exist.")
    if kind == MONITORING:
        made, steps, notes = monitoring.files(deploy_file.load(path)), monitoring.steps(), []
    else:
        files_of, steps_of = TARGETS[kind]
        planned = plan.read(path, image or DEFAULT)
        made, steps, notes = files_of(planned), steps_of(planned), _notes(planned)
    made[README] = _readme(path, kind, steps, notes)
    _install(made, out)
    print(f"{out}: {', '.join(sorted(made))}")
    for note in notes:
        print(f"note: {note}")
    print("Next, in that folder:\n" + "\n".join(f"    {step}" for step in steps))


def _install(made: Files, out: Path) -> None:
    """Raises SetupError for a place where nothing can be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        incoming = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise SetupError(
            f"{out}: no folder can be made there ({error.strerror}). Name another (--out)."
        ) from error
    try:
        for name, content in made.items():
            (incoming / name).parent.mkdir(parents=True, exist_ok=True)
            (incoming / name).write_text(content)
        incoming.chmod(0o755)
        incoming.replace(out)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _notes(planned: Plan) -> list[str]:
    """What the reader must know of these files."""
    notes = []
    for server in planned.ours:
        bundle = server.bundle
        what = f"{server.model}, tier {server.name} ({bundle.entry})"
        if bundle.is_folder:
            notes.append(
                f"{what}: its bundle, {bundle.source}, is a folder of this machine, so the files"
                " run here alone. Publish it where others reach it."
            )
        if bundle.memory_bytes is None:
            notes.append(f"{what}: its memory was not measured, so the files set no limit.")
        if bundle.until:
            notes.append(f"{what}: approved until {bundle.until:%Y-%m-%d}.")
    return notes


def _readme(path: Path, kind: str, steps: list[str], notes: list[str]) -> str:
    today = datetime.datetime.now(datetime.UTC).date()
    listed = "".join(f"- {note}\n" for note in notes)
    commands = "".join(f"    {step}\n" for step in steps)
    head = f"# {path.name} for {kind}\nWritten by quantgate deploy-files on {today}."
    return f"{head} In this folder:\n\n{commands}" + (f"\n{listed}" if listed else "")
