"""The dvc of the control environment: nothing that it keeps for itself is half-written when it is
killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def dvc(
    folder: Path, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "dvc", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose dvc.lock tells of so many stages that writing it can be seen."""
    dvc(tmp_path, "init", "--no-scm")
    (tmp_path / "dvc.yaml").write_text("stages:\n  a:\n    cmd: echo a > a\n    outs: [a]\n")
    stages = "".join(f"  old{number}:\n    cmd: echo\n" for number in range(2000))
    (tmp_path / "dvc.lock").write_text(f"schema: '2.0'\nstages:\n{stages}")
    return tmp_path


def test_a_stage_finds_the_quantgate_beside_it(tmp_path: Path) -> None:
    """Its command, not that of an environment that was activated, or none."""
    dvc(tmp_path, "init", "--no-scm")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  a:\n    cmd: command -v quantgate > a\n    outs: [a]\n"
    )
    done = dvc(tmp_path, "repro", env={"PATH": os.defpath})
    assert done.returncode == 0, done.stderr
    assert Path((tmp_path / "a").read_text().strip()).samefile(BIN / "quantgate")


def test_killed_while_it_writes_dvc_lock_it_runs_again(project: Path) -> None:
    lock = project / "dvc.lock"
    size = lock.stat().st_size
    process = subprocess.Popen([BIN / "dvc", "repro"], cwd=project, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if lock.stat().st_size < size or (project / "dvc.lock.partial").exists():
            process.kill()
        time.sleep(0.001)
    assert process.returncode == -9
    assert lock.stat().st_size == size
    again = dvc(project, "repro")
    assert again.returncode == 0, again.stderr
    assert "  a:\n" in lock.read_text()
    assert [path for path in project.iterdir() if path.suffix == ".partial"] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [("repro", ""), ("repro -f", "1"), ("repro --force", "1"), ("repro -sf a", "1")],
)
def test_a_stage_is_told_of_force(tmp_path: Path, words: str, told: str) -> None:
    dvc(tmp_path, "init", "--no-scm")
    (tmp_path / "dvc.yaml").write_text(
        'stages:\n  a:\n    cmd: echo "$QUANTGATE_FORCED" > a\n    outs: [a]\n'
    )
    done = dvc(tmp_path, *words.split())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a").read_text().strip() == told
