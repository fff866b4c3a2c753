"""Forged records of a real run: seals show what was edited, and measuring again what was sealed
again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline import cli, paths
from pipeline.errors import ArtifactError, SignoffError
from pipeline.release.signoff import log
from tests import release
from tests.conftest import command
from tests.release import ADA, PASS, key
from tests.test_seals import FORGERIES, lower_kl

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("quick_gate")]
KINDS = ("manifests", "evaluations", "extensions", "verdicts", "gates", "timings", "benchmarks")
APPROVE = ("quantgate", "signoff", "approve", *PASS, "--key", key(ADA), "--remeasure", "0.05")


@pytest.fixture
def project(tiny_untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project that `make repro` was run in, with a policy."""
    shutil.copytree(tiny_untouched, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    release.write_policy()
    return tmp_path / "project"


def test_every_edit_of_a_real_record_shows(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["require", *PASS]) == 0
    for kind in KINDS:
        shutil.copytree(paths.ARTIFACTS / kind, project.parent / kind)
    for forge, words in FORGERIES.items():
        forge()
        for asked in (["require", *PASS], ["signoff", "request", *PASS]):
            assert cli.main(asked) == ArtifactError.exit_code, forge
            assert words in capsys.readouterr().err
        for kind in KINDS:
            shutil.rmtree(paths.ARTIFACTS / kind)
            shutil.copytree(project.parent / kind, paths.ARTIFACTS / kind)
    assert cli.main(["require", *PASS]) == 0


def test_measured_again_the_honest_holds_and_the_forged_does_not(project: Path) -> None:
    asked = ("quantgate", "signoff", "request", *PASS, "--by", release.AUTHOR)
    assert command(*asked).returncode == 0
    done = command(*APPROVE)
    assert done.returncode == 0, done.stderr
    found = log.read(*PASS)[-1][0].remeasured
    assert found is not None
    assert (found.windows, found.items) == (
        7,
        110,
    )  # a twentieth of 135 windows, all of them compared, and of 2,200 items
    assert max(found.of_noise.values()) <= 1
    assert (
        "measured again: 7 windows, 110 items"
        in command("quantgate", "signoff", "show", *PASS).stdout
    )
    lower_kl()
    release.seal_again()  # as who owns the machine can
    assert command(*asked).returncode == 0
    done = command(*APPROVE)
    assert done.returncode == SignoffError.exit_code
    assert "measured again here, it is not what the evaluation says" in done.stderr
    assert len(log.read(*PASS)) == 3  # no approval was added
