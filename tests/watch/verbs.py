"""Runs verbs of the command one after the other, each in a fork of a process that was started in
the surroundings to be watched: python verbs.py ASKED.json TOLD.json

ASKED: words by verb. TOLD: by verb its exit code, what it said on stderr, whom it called, and what
lies in the home folder after it."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import click
import sitecustomize  # the watch itself, which has its file's name from the surroundings

from pipeline import cli


def load(found: click.Group) -> None:
    """Imports what every line of the table calls, once for all."""
    for command in found.commands.values():
        if isinstance(command, click.Group):
            load(command)
        else:
            importlib.import_module(f"pipeline.{command.function.partition(':')[0]}")  # type: ignore[attr-defined]


def ended(words: str, folder: Path) -> int:
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            with (folder / "err.txt").open("w") as err, contextlib.redirect_stderr(err):
                code = cli.main(words.split())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(asked: str, told: str) -> None:
    load(cli.quantgate)
    folder, calls, found = Path(told).parent, Path(str(sitecustomize.CALLS)), dict[str, Any]()
    for verb, words in json.loads(Path(asked).read_text()).items():
        code = ended(words, folder)
        called = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        found[verb] = {
            "code": code,
            "said": (folder / "err.txt").read_text(),
            "called": called,
            "home": sorted(str(path) for path in Path.home().rglob("*")),
        }
    Path(told).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
