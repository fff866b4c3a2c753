"""Sign-off: who may approve what, and what nobody may."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest

from pipeline import cli, paths, recipe, records, report
from pipeline.errors import RecipeError, Rejected, SignoffError
from pipeline.evidence import provenance
from pipeline.release import signing
from pipeline.release.signoff import commands, log, policy
from pipeline.report import chart_forest
from pipeline.stages import gate as gate_stage
from tests import release
from tests.release import ADA, AUTHOR, BOB, PASS, RECIPE, key

DIRTY = ("pipeline/formats/layers.py",)
pytestmark = pytest.mark.usefixtures("quick_gate")


def fails() -> None:
    """Tightens the recipe's limit until the variant fails that check alone, and commits."""
    path = paths.recipe(RECIPE)
    path.write_text(
        path.read_text().replace(
            "mean_kl: {bf16: 0.001, int8: 0.001", "mean_kl: {bf16: 0.001, int8: 0.00005"
        )
    )
    release.commit("a stricter limit")
    gate_stage.run(*PASS)
    found = records.read(paths.benchmark(*PASS), records.Benchmark)
    unmeasured = {
        "measured": False,
        "reason": "the gate says FAIL",
        "profiles": {},
        "machine": {},
        "device": None,
    }
    found.model_copy(update=unmeasured).write(paths.benchmark(*PASS))
    release.seal_again()


def later(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    monkeypatch.setattr(commands, "_now", lambda: now)


def test_requested_approved_verified_rejected_and_approved_again(
    measured: recipe.Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["signoff", "verify", *PASS]) == 1
    assert cli.main(["signoff", "request", *PASS]) == 0
    assert cli.main(["signoff", "approve", *PASS, "--key", key(ADA)]) == 0
    assert cli.main(["signoff", "verify", *PASS]) == 0
    assert "PASS; approved by ada@example.org (reviewer) until" in capsys.readouterr().out
    assert (
        cli.main(["signoff", "reject", *PASS, "--key", key(BOB), "--reason", "wrong licence"]) == 0
    )
    assert cli.main(["signoff", "verify", *PASS]) == 1
    assert "rejected by bob@example.org: wrong licence" in capsys.readouterr().err
    assert cli.main(["signoff", "approve", *PASS, "--key", key(BOB)]) == 0
    assert cli.main(["signoff", "show", *PASS]) == 0
    shown = capsys.readouterr().out
    assert [word for word in ("request", "approve until", "reject") if word in shown] == [
        "request",
        "approve until",
        "reject",
    ]
    assert len(log.path(*PASS).read_text().splitlines()) == 4


def test_a_request_is_written_once_until_something_else_was(
    measured: recipe.Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    for by in (None, None, "other@example.org"):
        commands.request(*PASS, by)
    assert capsys.readouterr().out.count("already requested by") == 1
    assert len(log.path(*PASS).read_text().splitlines()) == 2
    commands.approve(*PASS, key(ADA), [], "", None)
    commands.request(*PASS, None)
    assert len(log.path(*PASS).read_text().splitlines()) == 4


def test_nothing_is_approved_that_was_not_requested(measured: recipe.Recipe) -> None:
    with pytest.raises(SignoffError, match="no sign-off was requested"):
        commands.approve(*PASS, key(ADA), [], "", None)


def test_a_key_that_the_policy_does_not_name_approves_nothing(measured: recipe.Recipe) -> None:
    commands.request(*PASS, None)
    signing.make_key(Path("../mallory.pem"))
    with pytest.raises(SignoffError, match=r"nobody in signoff/policy\.yaml has this key"):
        commands.approve(*PASS, "../mallory.pem", [], "", None)
    with pytest.raises(SignoffError, match=r"nobody in signoff/policy\.yaml has this key"):
        commands.approve(*PASS, key(release.CI), [], "", None)  # may publish, not approve


def test_a_key_is_never_overwritten_and_is_its_owners_alone(measured: recipe.Recipe) -> None:
    before = Path(key(ADA)).read_bytes()
    assert Path(key(ADA)).stat().st_mode & 0o077 == 0
    with pytest.raises(SignoffError, match="never replaced"):
        signing.make_key(Path(key(ADA)))
    assert Path(key(ADA)).read_bytes() == before


def test_an_encrypted_key_needs_its_password(
    measured: recipe.Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(signing.PASSWORD, "correct horse")
    signing.make_key(Path("../carol.pem"))
    monkeypatch.delenv(signing.PASSWORD)
    with pytest.raises(SignoffError, match=signing.PASSWORD):
        commands.approve(*PASS, "../carol.pem", [], "", None)


def test_the_author_may_not_approve_alone(measured: recipe.Recipe) -> None:
    release.write_policy(people=(ADA, AUTHOR))
    with pytest.raises(
        Rejected, match=r"is not enough: .*approved by its author, or who asked, alone"
    ):
        release.approve(by=AUTHOR)
    with pytest.raises(Rejected, match="approved by its author, or who asked, alone"):
        commands.verify(*PASS)
    commands.approve(*PASS, key(ADA), [], "", None)
    commands.verify(*PASS)


def test_as_many_approve_as_the_policy_says_and_in_its_roles(measured: recipe.Recipe) -> None:
    release.write_policy("approvals: 2\nroles: [security]\n", people=(ADA, BOB, "dan@example.org"))
    commands.request(*PASS, None)
    for _ in range(2):  # twice the same person is one approval
        with pytest.raises(Rejected, match="1 of 2 approvals; nobody approved as security"):
            commands.approve(*PASS, key(ADA), [], "", None)
    with pytest.raises(Rejected, match="not signed off: nobody approved as security"):
        commands.approve(*PASS, key("dan@example.org"), [], "", None)
    commands.approve(*PASS, key(BOB), [], "", None)
    commands.verify(*PASS)


def test_an_approval_ends(measured: recipe.Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    release.approve()
    later(monkeypatch, 91)
    with pytest.raises(
        Rejected, match=r"the approval of ada@example\.org does not count: it ended"
    ):
        commands.verify(*PASS)


def test_a_key_ends_with_all_that_it_signed(measured: recipe.Recipe) -> None:
    release.approve()
    release.write_policy(until="2026-01-01")
    with pytest.raises(Rejected, match="its key is none that the policy names"):
        commands.verify(*PASS)


@pytest.mark.parametrize(
    ("record", "old", "new"),
    [
        ("evaluation", '"tokenizer_probes": 8', '"tokenizer_probes": 9'),
        ("benchmark", "the gate says PASS", "the gate said PASS"),
    ],
)
def test_an_approval_is_of_the_records_it_was_given_for(
    measured: recipe.Recipe, record: str, old: str, new: str
) -> None:
    release.approve()
    path = getattr(paths, record)(*PASS)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    release.seal_again()
    with pytest.raises(Rejected, match=f"it is of other records: {record}.json.* changed since"):
        commands.verify(*PASS)
    with pytest.raises(
        SignoffError,
        match=r"no sign-off was requested of the artifact as it is now \(it changed since\)",
    ):
        commands.approve(*PASS, key(BOB), [], "", None)


def test_who_makes_the_same_again_keeps_its_approval(measured: recipe.Recipe) -> None:
    """At another time, in another time, and after the sign-off was committed: none of it is what
    was approved."""
    release.approve()
    origin = provenance.now(RECIPE, "openvino")
    for path, kind in (
        (paths.manifest(*PASS), records.Manifest),
        (paths.evaluation(*PASS), records.Evaluation),
    ):
        found = records.read(path, kind)
        assert found.origin == origin
        found.model_copy(update={"wall_s": 99.0, "peak_memory_bytes": 5, "origin": origin}).write(
            path
        )
    commands.verify(*PASS)
    release.published()
    commands.reject(*PASS, key(BOB), "unsafe")  # nor does making it again take a rejection back
    records.read(paths.manifest(*PASS), records.Manifest).model_copy(update={"wall_s": 98.0}).write(
        paths.manifest(*PASS)
    )
    with pytest.raises(Rejected, match=r"rejected by bob@example\.org"):
        commands.verify(*PASS)


def test_an_approval_does_not_move_to_another_variant(measured: recipe.Recipe) -> None:
    release.approve("ov-bf16")
    log.path(*PASS).write_bytes(log.path(RECIPE, "ov-bf16").read_bytes())
    with pytest.raises(Rejected, match="does not count: it is of tiny/ov-bf16"):
        commands.verify(*PASS)


def dirty_tree() -> None:
    Path("pipeline/gate/limits.py").write_text("")


def dirty_recipe() -> None:
    paths.recipe(RECIPE).write_text(paths.recipe(RECIPE).read_text() + "\n")


def made_dirty() -> None:
    _origin(paths.manifest(*PASS), records.Manifest)


def measured_dirty() -> None:
    _origin(paths.evaluation(*PASS), records.Evaluation)


def _origin(
    path: Path,
    record: type[records.Manifest] | type[records.Evaluation],
    changed: Sequence[str] = DIRTY,
) -> None:
    found = records.read(path, record)
    revision = records.Revision(commit="c" * 40, changed=list(changed))
    found.model_copy(
        update={"origin": found.origin.model_copy(update={"revision": revision})}
    ).write(path)
    release.seal_again()


def floating() -> None:
    found = records.read(paths.checkpoint(RECIPE), records.Checkpoint)
    found.model_copy(update={"path": None, "repo": "a/b", "revision": "main"}).write(
        paths.checkpoint(RECIPE)
    )
    text = paths.recipe(RECIPE).read_text()
    assert "revision" not in text


def partial() -> None:
    path = paths.evaluation(*PASS)
    found = records.read(path, records.Evaluation)
    found.model_copy(update={"tasks": found.tasks[1:]}).write(path)
    release.seal_again()
    gate_stage.run(*PASS)


def told_to_look_away() -> None:
    dirty_tree()
    release.git("update-index", "--assume-unchanged", "pipeline/gate/limits.py")


def hidden_code() -> None:
    Path("pipeline/gate/more.py").write_text("")
    Path(".git/info/exclude").write_text("more.py\n")


def invented() -> None:
    _origin(paths.manifest(*PASS), records.Manifest, [])


def other_samples() -> None:
    _edit(paths.samples(RECIPE), '"ids": [\n  [\n   1', '"ids": [\n  [\n   2')


def other_texts() -> None:
    _edit(paths.texts(RECIPE), '"windows": [\n    [\n     0', '"windows": [\n    [\n     7')


def uncompared() -> None:
    found = records.read(paths.evaluation(*PASS), records.Evaluation)
    assert found.load_check is not None
    emptied = found.load_check.model_copy(update={"relative_error": {}})
    found.model_copy(update={"load_check": emptied}).write(paths.evaluation(*PASS))
    release.seal_again()


def untimed() -> None:
    paths.timings(*PASS).unlink()


def other_timings() -> None:
    _edit(paths.timings(*PASS), '"wall_s": 8.0', '"wall_s": 4.0')


def other_figures() -> None:
    _edit(paths.benchmark(*PASS), "150.0", "950.0")


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (told_to_look_away, "the project now: of a dirty tree: pipeline/gate/limits.py differ"),
        (hidden_code, "the project now: of a dirty tree: pipeline/gate/more.py differ"),
        (invented, "the artifact: made at commit cccccccccccc, which git does not have here"),
        (other_samples, "token ids were changed"),
        (other_texts, "token ids were changed"),
        (uncompared, "the weights of 0 of 2 layers were compared"),
        (untimed, "the benchmark is not what its raw timings give"),
        (other_timings, "the benchmark is not what its raw timings give"),
        (other_figures, "the benchmark is not what its raw timings give"),
        (dirty_tree, "the project now: of a dirty tree: pipeline/gate/limits.py differ"),
        (dirty_recipe, "the project now: of a dirty tree: recipes/tiny.yaml differ"),
        (made_dirty, "the artifact: of a dirty tree: pipeline/formats/layers.py differ"),
        (measured_dirty, "its evaluation: of a dirty tree"),
        (floating, "another checkpoint was pinned"),
        (partial, "partial evaluation: 0 items of world_facts, the recipe asks for all"),
    ],
)
def test_what_is_never_signed_off(
    measured: recipe.Recipe, capsys: pytest.CaptureFixture[str], spoil: object, words: str
) -> None:
    commands.request(*PASS, None)
    assert callable(spoil)
    spoil()
    assert cli.main(["signoff", "request", *PASS]) == 2
    assert words in capsys.readouterr().err
    assert cli.main(["signoff", "approve", *PASS, "--key", key(ADA)]) == 2
    assert words in capsys.readouterr().err
    assert len(log.path(*PASS).read_text().splitlines()) == 1


def test_an_uncommitted_policy_counts_for_nothing(measured: recipe.Recipe) -> None:
    commands.request(*PASS, None)
    path = Path("signoff/policy.yaml")
    path.write_text(path.read_text() + "valid_days: 9999\n")
    with pytest.raises(SignoffError, match="not in the git commit as it is"):
        commands.approve(*PASS, key(ADA), [], "", None)


def test_a_failed_check_needs_a_waiver_and_stays_failed(
    measured: recipe.Recipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fails()
    report.write(recipe.load(RECIPE))
    commands.request(*PASS, None)
    with pytest.raises(SignoffError, match="mean_kl deployed x"):
        commands.approve(*PASS, key(ADA), [], "", None)
    soon = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=10)
    commands.approve(*PASS, key(ADA), ["mean_kl"], "ties", soon)
    assert f"waived until {soon}" in capsys.readouterr().out
    assert records.read(paths.verdict(*PASS), records.Verdict).status != "PASS"
    commands.verify(*PASS)
    later(monkeypatch, 12)
    with pytest.raises(Rejected, match="its waiver ended"):
        commands.verify(*PASS)


@pytest.mark.parametrize(
    ("waive", "reason", "days", "words"),
    [
        ("mean_kl", "", 10, "--waive needs --reason"),
        ("mean_kl", "ties", None, "--waive needs --reason"),
        ("mean_kl", "ties", 31, "more than 30 days from now"),
        ("mean_kl", "ties", -2, "more than 30 days from now"),
        ("length_ratio", "ties", 10, "no check of that name failed"),
    ],
)
def test_a_waiver_says_why_and_how_long(
    measured: recipe.Recipe, waive: str, reason: str, days: int | None, words: str
) -> None:
    fails()
    commands.request(*PASS, None)
    until = (
        None
        if days is None
        else datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=days)
    )
    with pytest.raises(SignoffError, match=words):
        commands.approve(*PASS, key(ADA), [waive], reason, until)


def test_a_check_that_the_policy_does_not_name_is_not_waived(measured: recipe.Recipe) -> None:
    fails()
    release.write_policy("waivable: [speedup]\n")
    commands.request(*PASS, None)
    soon = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=10)
    with pytest.raises(SignoffError, match="mean_kl may not be waived; the policy allows speedup"):
        commands.approve(*PASS, key(ADA), ["mean_kl"], "ties", soon)


def test_whoever_ever_wrote_the_recipe_is_its_author(measured: recipe.Recipe) -> None:
    release.write_policy(people=(ADA, AUTHOR))
    paths.recipe(RECIPE).write_text(paths.recipe(RECIPE).read_text() + "# a word\n")
    release.git("add", "-A")
    release.git("commit", "-qm", "a word", "--author", "zed <zed@example.org>")
    commands.request(*PASS, "zed@example.org")
    with pytest.raises(Rejected, match="approved by its author, or who asked, alone"):
        commands.approve(*PASS, key(AUTHOR), [], "", None)


def test_an_end_without_a_waiver_is_refused(measured: recipe.Recipe) -> None:
    commands.request(*PASS, None)
    with pytest.raises(SignoffError, match="needs --waive CHECK"):
        commands.approve(*PASS, key(ADA), [], "", datetime.date(2027, 1, 1))


@pytest.mark.parametrize("where", ["..", "../none/ada.pem"])
def test_a_key_that_cannot_be_read_or_written_is_one_error(
    measured: recipe.Recipe, where: str
) -> None:
    assert cli.main(["signoff", "approve", *PASS, "--key", where]) == SignoffError.exit_code
    assert (
        cli.main(["signoff", "key", where, "--name", ADA, "--role", "reviewer"])
        == SignoffError.exit_code
    )


def test_the_policy_can_name_each_kind_of_check_and_no_other(measured: recipe.Recipe) -> None:
    assert set(get_args(policy.Waivable)) == {kind.name for kind in chart_forest.KINDS} | {
        "speedup"
    }
    policy.PATH.write_text("waivable: [mean_lk]\n")
    with pytest.raises(RecipeError, match="waivable"):
        policy.load()
