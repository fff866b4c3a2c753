"""The log of a sign-off: append-only, chained, and heard also of artifacts that are no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import cli, paths, recipe, records
from pipeline.errors import Rejected, SignoffError, Tampered
from pipeline.release.signoff import commands, log
from tests import release
from tests.release import ADA, BOB, PASS, key

pytestmark = pytest.mark.usefixtures("quick_gate")


def changed(text: str) -> str:
    return text.replace('"sig": "', '"sig": "AA', 1)


def reworded(text: str) -> str:
    import base64

    lines = text.splitlines(keepends=True)
    envelope = json.loads(lines[1])
    payload = base64.b64decode(envelope["payload"]).replace(
        b'"verdict":"PASS"', b'"verdict":"FAIL"'
    )
    envelope["payload"] = base64.b64encode(payload).decode()
    return lines[0] + json.dumps(envelope, sort_keys=True) + "\n"


def test_a_log_that_is_no_text_is_refused(measured: recipe.Recipe) -> None:
    where = log.path("tiny", "ov-int8")
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_bytes(b"\xff\xfe")
    with pytest.raises(Tampered, match=r"ov-int8\.jsonl: not UTF-8 text"):
        log.content(where)


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (
            lambda text: text.splitlines(keepends=True)[1],
            "entry 1: it does not follow the entry before it",
        ),
        (lambda text: text + text, "entry 3: it does not follow"),
        (lambda text: text[:-40] + "\n", "entry 2: not a DSSE envelope"),
        (changed, "the signature of ada@example.org does not hold"),
        (reworded, "the signature of ada@example.org does not hold"),
    ],
)
def test_a_log_that_was_tampered_with_is_refused(
    measured: recipe.Recipe, tamper: object, words: str
) -> None:
    commands.request(*PASS, None)
    commands.approve(*PASS, key(ADA), [], "", None)
    assert callable(tamper)
    log.path(*PASS).write_text(tamper(log.path(*PASS).read_text()))
    with pytest.raises(Tampered, match=words):
        commands.verify(*PASS)


def test_a_committed_log_cannot_lose_its_end(measured: recipe.Recipe) -> None:
    release.approve()
    approved = log.path(*PASS).read_text()
    commands.reject(*PASS, key(BOB), "no")
    release.commit("rejected")
    log.path(*PASS).write_text(approved)
    release.commit("tidied")  # nor by a commit
    with pytest.raises(
        Tampered, match="3 entries were committed, and are not what it begins with now"
    ):
        commands.verify(*PASS)


def test_a_rejection_outlives_its_key(measured: recipe.Recipe) -> None:
    release.approve()
    commands.reject(*PASS, key(BOB), "unsafe")
    path = Path("signoff/policy.yaml")
    lines = [
        line.replace("2999-12-31", "2026-01-01") if BOB in line else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines) + "\n")
    release.commit("Bob left")
    with pytest.raises(Rejected, match=r"rejected by bob@example\.org: unsafe"):
        commands.verify(*PASS)


def test_an_artifact_that_was_made_anew_is_rejected_by_its_manifest(
    measured: recipe.Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its bundle may be out there."""
    release.approve()
    bundle = release.published()
    before = log.read(*PASS)[-1][0].subject.manifest_sha256
    manifest = records.read(paths.manifest(*PASS), records.Manifest)
    manifest.model_copy(update={"notes": ["made anew"]}).write(paths.manifest(*PASS))
    release.seal_again()
    refused = ["signoff", "reject", *PASS, "--key", key(BOB), "--reason", "unsafe", "--manifest"]
    assert cli.main([*refused, "0" * 12]) == SignoffError.exit_code
    assert (
        f"0 artifacts of that manifest in the log. It has: {before[:12]}."
        in capsys.readouterr().err
    )
    assert cli.main([*refused, before[:12]]) == 0
    with pytest.raises(Rejected, match=r"rejected by bob@example\.org: unsafe"):
        release.verify(bundle)
    commands.request(*PASS, None)
    commands.approve(*PASS, key(BOB), [], "", None)  # the new one: no word about the old
    with pytest.raises(Rejected, match=r"rejected by bob@example\.org: unsafe"):
        release.verify(bundle)
    assert cli.main([*refused, before[:12]]) == 0
    commands.verify(*PASS)  # nor does rejecting the old one take back the approval of the new
