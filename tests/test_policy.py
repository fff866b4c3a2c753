"""The policy: who is in it, what is said of one that names nobody or is none, and what a correction
of it leaves of the log."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from pipeline import cli, recipe
from pipeline.errors import RecipeError, Rejected, SignoffError, Tampered
from pipeline.release import signing
from pipeline.release.signoff import commands, log, policy
from tests import release
from tests.release import ADA, AUTHOR, BOB, CI, PASS, RECIPE, key, public

pytestmark = pytest.mark.usefixtures("quick_gate")


def edit(old: str, new: str) -> None:
    text = policy.PATH.read_text()
    assert old in text
    policy.PATH.write_text(text.replace(old, new))
    release.commit("policy")


def test_a_corrected_name_or_role_leaves_a_next_step(
    measured: recipe.Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was signed under the old one counts no more; the log can be read, and the same person
    approves again."""
    release.approve()
    edit(ADA, "ada.l@example.org")
    assert cli.main(["signoff", "verify", *PASS]) == Rejected.exit_code
    said = (
        "says it is by ada@example.org (reviewer); the key is that of ada.l@example.org (reviewer)."
        " If the policy was corrected, "
    )
    assert said + "let ada.l@example.org approve again" in capsys.readouterr().err
    assert cli.main(["signoff", "approve", *PASS, "--key", key(ADA)]) == 0
    assert cli.main(["signoff", "show", *PASS]) == 0
    edit("role: reviewer", "role: safety")
    assert cli.main(["signoff", "verify", *PASS]) == Rejected.exit_code
    commands.approve(*PASS, key(ADA), [], "", None)
    release.commit("signed off")
    release.published()


def test_a_corrected_name_takes_no_rejection_back(measured: recipe.Recipe) -> None:
    release.approve()
    commands.reject(*PASS, key(BOB), "unsafe")
    edit(BOB, "rob@example.org")
    with pytest.raises(Rejected, match=r"rejected by rob@example\.org: unsafe"):
        commands.verify(*PASS)
    commands.approve(*PASS, key(BOB), [], "", None)


def test_nothing_is_appended_that_does_not_hold(measured: recipe.Recipe) -> None:
    """As of a hardware token whose key is not the one that the policy has under that name."""
    commands.request(*PASS, None)
    before = log.path(*PASS).read_text()
    decision = log.read(*PASS)[-1][0].model_copy(
        update={"action": "approve", "by": ADA, "previous": log.last(before)}
    )
    known = policy.load().holders("approvers", datetime.datetime.now(datetime.UTC))
    _, bobs = signing.signer(key(BOB), known)
    with pytest.raises(Tampered, match="nothing was added"):
        log.append(decision, bobs, {ADA: known[ADA]})
    assert log.path(*PASS).read_text() == before


def test_an_approval_that_is_not_enough_is_no_success(
    measured: recipe.Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    release.write_policy("approvals: 2\n")
    assert cli.main(["signoff", "request", *PASS]) == 0
    assert cli.main(["signoff", "approve", *PASS, "--key", key(ADA)]) == Rejected.exit_code
    assert (
        "your approval is in the log, and is not enough: not signed off: 1 of 2 approvals"
        in capsys.readouterr().err
    )
    assert cli.main(["signoff", "approve", *PASS, "--key", key(BOB)]) == 0


@pytest.mark.parametrize(
    "nobody", ["approvers: {}\npublishers: {}\n", "approvers:\npublishers:\n", ""]
)
def test_a_policy_that_names_nobody_is_explained(measured: recipe.Recipe, nobody: str) -> None:
    policy.PATH.write_text(nobody or "{}\n")
    release.commit("nobody")
    commands.request(*PASS, None)
    for decide in (
        lambda: commands.approve(*PASS, key(ADA), [], "", None),
        lambda: commands.reject(*PASS, key(ADA), "no"),
    ):
        with pytest.raises(
            SignoffError,
            match=(
                r"approvers: names nobody, so nobody may approve.*printed line below `approvers:`"
            ),
        ):
            decide()
    with pytest.raises(SignoffError, match="publishers: names nobody, so nobody may publish"):
        release.published()


def test_a_policy_is_read_before_its_commit_is_asked_for(measured: recipe.Recipe) -> None:
    policy.PATH.write_text("approvers: {ada@example.org: {role: reviewer}}\n")
    with pytest.raises(RecipeError, match=r"approvers\.ada@example\.org\.key: missing"):
        commands.approve(*PASS, key(ADA), [], "", None)


def test_an_approver_goes_by_an_address_and_has_a_key_of_their_own(measured: recipe.Recipe) -> None:
    """Under another name nobody would see that an approver is the recipe's author; with one key two
    approvals were one person's."""
    edit(ADA, "Ada")
    with pytest.raises(RecipeError, match=r"approvers: found 'Ada', expected the e-mail address"):
        policy.load()
    edit("Ada", ADA)
    policy.PATH.write_text(
        policy.PATH.read_text().replace(
            "publishers:", release.person("zed@example.org", "x", public(key(ADA))) + "publishers:"
        )
    )
    with pytest.raises(RecipeError, match=r"ada@example\.org: the key is another approver's too"):
        policy.load()
    with pytest.raises(SignoffError, match="expected an e-mail address"):
        commands.request(*PASS, "me")


def test_an_author_under_another_address_is_found_by_mailmap(measured: recipe.Recipe) -> None:
    release.write_policy(people=("eve.b@work.example", ADA))
    commands.request(*PASS, "zed@example.org")
    Path(".mailmap").write_text(f"Eve <eve.b@work.example> <{AUTHOR}>\n")
    release.commit("one person")
    with pytest.raises(Rejected, match="approved by its author, or who asked, alone"):
        commands.approve(*PASS, key("eve.b@work.example"), [], "", None)
    commands.approve(*PASS, key(ADA), [], "", None)


def test_authors_are_gits_whatever_an_approver_signed(measured: recipe.Recipe) -> None:
    """With a client of their own, an author can sign that somebody else wrote the recipe."""
    release.write_policy(people=(AUTHOR, ADA))
    commands.request(*PASS, "zed@example.org")
    with pytest.raises(Rejected):
        commands.approve(*PASS, key(AUTHOR), [], "", None)
    where, entries = log.path(*PASS), log.read(*PASS)
    unnamed = [decision.model_copy(update={"authors": []}) for decision, _ in entries]
    where.unlink()
    known = policy.load().holders("approvers", datetime.datetime.now(datetime.UTC))
    for decision, signer in zip(
        unnamed, (None, signing.signer(key(AUTHOR), known)[1]), strict=True
    ):
        previous = log.last(where.read_text()) if where.is_file() else ""
        log.append(decision.model_copy(update={"previous": previous}), signer, known)
    release.commit("signed off")
    with pytest.raises(Rejected, match="approved by its author, or who asked, alone"):
        commands.verify(*PASS)


@pytest.mark.parametrize(
    ("name", "role", "words"),
    [
        ("Ada", "reviewer", "expected the e-mail address"),
        ("c i", "publisher", "expected letters"),
        (CI, "a b", "--role: found 'a b'"),
    ],
)
def test_a_line_that_the_policy_would_not_take_is_refused(
    measured: recipe.Recipe, name: str, role: str, words: str
) -> None:
    with pytest.raises(SignoffError, match=words):
        commands.make_key(Path("../new.pem"), name, role)
    assert not Path("../new.pem").exists()


def test_the_printed_line_is_the_policys(
    measured: recipe.Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.make_key(Path(key("dan@example.org")), "dan@example.org", "reviewer")
    line = capsys.readouterr().out.splitlines()[-1]
    policy.PATH.write_text(f"approvers:\n{line}\n")
    release.commit("Dan")
    commands.request(RECIPE, PASS[1], None)
    commands.approve(*PASS, key("dan@example.org"), [], "", None)
