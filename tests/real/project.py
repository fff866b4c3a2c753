"""A project with the recipe of a real checkpoint in it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import REAL, command, make_project
from tests.real import prepare

LONGEST_S = 4 * 3600  # nine variants of half a billion parameters on two cores


def real_project(name: str, folder: Path) -> Path:
    """Without its index, so that the recipe can still be changed. Skips where the checkpoint cannot
    be had."""
    make_project(folder)
    try:
        prepare.main(name, REAL, folder)
    except prepare.Unavailable as error:
        pytest.skip(str(error))
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def judge(folder: Path, name: str, variants: tuple[str, ...]) -> None:
    """Makes, measures and judges these variants."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert command("quantgate", "index").returncode == 0
        gates = (f"gate@{name}--{variant}" for variant in variants)
        done = command("dvc", "repro", "--keep-going", *gates, timeout_s=LONGEST_S)
    assert done.returncode == 0, done.stderr[-3000:]
