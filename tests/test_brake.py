"""Taking an approval back needs a key, the policy and the log; asking and approving look at what
the artifact rests on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import cli, paths, recipe
from pipeline.errors import Rejected, SignoffError
from pipeline.release.signoff import commands, log
from tests import release
from tests.release import ADA, BOB, PASS, key

pytestmark = pytest.mark.usefixtures("quick_gate")
REJECT = ["signoff", "reject", *PASS, "--key", key(BOB), "--reason", "unsafe"]


def untracked() -> None:
    Path("pipeline/notes.py").write_text("")


def changed_recipe() -> None:
    paths.recipe("tiny").write_text("no recipe any more")


def changed_policy() -> None:
    path = Path("signoff/policy.yaml")
    path.write_text(path.read_text() + "valid_days: 5\n")


def no_artifacts() -> None:
    shutil.rmtree("artifacts")


def half_a_manifest() -> None:
    paths.manifest(*PASS).write_text("{")


def no_git() -> None:
    shutil.rmtree(".git")


STATES = (untracked, changed_recipe, changed_policy, no_artifacts, half_a_manifest, no_git)


@pytest.mark.parametrize("spoil", STATES)
def test_a_rejection_needs_the_key_the_policy_and_the_log_alone(
    bundle: Path, spoil: Callable[[], None]
) -> None:
    """The bundle was published from this project, and is not served any more."""
    release.verify(bundle)
    spoil()
    assert cli.main(REJECT) == 0
    with pytest.raises(Rejected, match=r"rejected by bob@example\.org: unsafe"):
        release.verify(bundle)


def test_an_artifact_that_nobody_asked_about_can_be_rejected(measured: recipe.Recipe) -> None:
    assert cli.main(REJECT) == 0
    commands.request(*PASS, None)
    with pytest.raises(Rejected, match=r"rejected by bob@example\.org: unsafe"):
        commands.approve(*PASS, key(ADA), [], "", None)


def test_a_rejection_of_nothing_is_refused(measured: recipe.Recipe) -> None:
    no_artifacts()
    with pytest.raises(
        SignoffError, match="nothing to reject: no artifact lies here, and the log is of none"
    ):
        commands.reject(*PASS, key(BOB), "unsafe")


def others_recipe() -> None:
    shutil.copyfile(paths.recipe("tiny"), paths.recipe("other"))


def others_prompts() -> None:
    Path("calibration/notes.yaml").write_text("")


def note() -> None:
    Path("notes.txt").write_text("")


def changed_readme() -> None:
    Path("Makefile").write_text("")


@pytest.mark.parametrize("change", [others_recipe, others_prompts, note, changed_readme])
def test_what_the_artifact_does_not_rest_on_may_be_in_any_state(
    measured: recipe.Recipe, change: Callable[[], None]
) -> None:
    change()
    release.approve_here()
    commands.verify(*PASS)
    assert len(log.path(*PASS).read_text().splitlines()) == 2
