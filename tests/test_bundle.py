"""A bundle is whole, says all that is known of its artifact, and is published once, of what is
approved."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from pipeline import cli, paths, recipe
from pipeline.errors import QuantgateError, Rejected, SetupError, Tampered
from pipeline.records import artifact
from pipeline.release import fetch
from pipeline.release.bundle import check, layout
from pipeline.release.signoff import commands, log, policy
from tests import release
from tests.release import ADA, BOB, PASS, RECIPE, VARIANT, key, verify

pytestmark = pytest.mark.usefixtures("quick_gate")


def test_a_bundle_is_whole_and_says_what_it_is(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", str(bundle), "--recheck"]) == 0
    said = capsys.readouterr().out
    assert f"{RECIPE}/{VARIANT}/1" in said
    assert "PASS; approved by ada@example.org (reviewer) until" in said
    kept = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    ours = {
        "serve.yaml",
        "bom.cdx.json",
        "policy.yaml",
        "signoff.jsonl",
        "statements.jsonl",
        "report.html",
        "report.md",
        "bundle.dsse.json",
        "environments/openvino.txt",
    }
    evidence = {f"records/{name}" for name in layout.REQUIRED | layout.FLOOR | {"texts.json"}}
    assert kept == {
        "w",
        "config.json",
        "tokenizer.json",
        "README.md",
        *(f"quantgate/{name}" for name in ours | evidence),
    }


def test_its_statements_are_in_totos_and_lead_from_source_to_figures(bundle: Path) -> None:
    lines = [json.loads(line) for line in (bundle / layout.STATEMENTS).read_text().splitlines()]
    said = [json.loads(base64.b64decode(line["payload"])) for line in lines]
    for one in said:
        Statement.copy_from_pb(json_format.ParseDict(one, statement_pb2.Statement())).validate()
        assert {subject["name"]: subject["digest"]["sha256"] for subject in one["subject"]} == {
            name: hashlib.sha256((bundle / name).read_bytes()).hexdigest()
            for name in ("w", "config.json", "tokenizer.json")
        }
    provenance, result, benchmark = (one["predicate"] for one in said)
    names = {resource["name"] for resource in provenance["buildDefinition"]["resolvedDependencies"]}
    assert names == {"source/w", "calibration samples", "recipe", "project", "environment openvino"}
    assert (result["result"], result["failedTests"], len(result["passedTests"])) == (
        "PASSED",
        [],
        13,
    )
    assert benchmark["measured"] is True


def test_its_bill_of_materials_is_cyclonedx(bundle: Path) -> None:
    """bom.make has the validator of CycloneDX's own library accept it; here, that the validator
    would refuse another."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (bundle / layout.BOM).read_text()
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace("machine-learning-model", "model")) is not None
    model = json.loads(text)["metadata"]["component"]
    assert {file["name"] for file in model["components"]} == {"w", "config.json", "tokenizer.json"}
    assert model["modelCard"]["modelParameters"]["architectureFamily"] == "L"


def test_the_same_artifact_gives_the_same_bundle(bundle: Path) -> None:
    again = release.published(registry="../other")
    assert artifact.hash_files(again) == artifact.hash_files(bundle)


def test_what_is_not_approved_is_not_published(measured: recipe.Recipe) -> None:
    with pytest.raises(Rejected, match="0 of 1 approvals"):
        release.published()
    release.approve()
    commands.reject(*PASS, key(BOB), "no")
    with pytest.raises(Rejected, match=r"rejected by bob@example\.org"):
        release.published()
    assert not Path("../registry").exists()


def test_what_changed_since_its_approval_is_not_published(measured: recipe.Recipe) -> None:
    release.approve()
    path = paths.model(*PASS) / "w"
    path.write_bytes(b"y" * path.stat().st_size)
    with pytest.raises(QuantgateError, match="w: 800 bytes"):
        release.published()


def test_nothing_is_overwritten(bundle: Path) -> None:
    before = artifact.hash_files(bundle)
    with pytest.raises(QuantgateError, match="already"):
        release.published()
    assert artifact.hash_files(bundle) == before


def test_published_listed_fetched(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "../registry"]) == 0
    assert capsys.readouterr().out.startswith(f"../registry/{RECIPE}/{VARIANT}/1  20")
    assert cli.main(["fetch", f"../registry/{RECIPE}/{VARIANT}/1", "--to", "../got"]) == 0
    assert artifact.hash_files(Path("../got")) == artifact.hash_files(bundle)
    assert cli.main(["fetch", f"../registry/{RECIPE}/{VARIANT}/1", "--to", "../got"]) == 2
    assert "there is something already" in capsys.readouterr().err
    assert cli.main(["verify", "../nowhere"]) == 2


def test_a_policy_of_the_reader_decides(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strict = Path("../strict.yaml")
    strict.write_text(
        Path("signoff/policy.yaml").read_text().replace("approvals: 1", "approvals: 2")
    )
    assert cli.main(["verify", str(bundle), "--policy", str(strict)]) == Rejected.exit_code
    assert "1 of 2 approvals" in capsys.readouterr().err


def test_an_ended_approval_or_key_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.datetime.now(datetime.UTC)
    rules = policy.load()
    with pytest.raises(Rejected, match="it ended"):
        check.check(bundle, rules, now + datetime.timedelta(days=91))
    yesterday = now.date() - datetime.timedelta(days=1)
    ended = {
        name: person.model_copy(update={"until": yesterday})
        for name, person in rules.publishers.items()
    }
    with pytest.raises(Tampered, match="signed by nobody whom the policy names for that"):
        check.check(bundle, rules.model_copy(update={"publishers": ended}), now)
    ended = {ADA: rules.approvers[ADA].model_copy(update={"until": yesterday})}
    with pytest.raises(Rejected, match="its key is none that the policy names"):
        check.check(bundle, rules.model_copy(update={"approvers": ended}), now)


def test_a_bundle_that_is_fetched_is_that_which_was_published(bundle: Path) -> None:
    with fetch.opened(bundle.resolve().as_uri(), policy.load()) as (folder, checked):
        assert folder != bundle.resolve()
        assert artifact.hash_files(folder) == artifact.hash_files(bundle)
        assert checked.standing.approved


def test_two_servers_at_once_have_a_copy_each(bundle: Path) -> None:
    def opened() -> contextlib.AbstractContextManager[tuple[Path, check.Checked]]:
        return fetch.opened(bundle.resolve().as_uri(), policy.load())

    with opened() as (one, _):
        with opened() as (other, _):
            assert artifact.hash_files(one) == artifact.hash_files(other)
        assert one.is_dir() and not other.exists()
    assert one != other
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        begun = pool.map(lambda _: stack.enter_context(opened())[0], range(4))
        assert len(set(begun)) == 4


def test_a_rejection_after_publishing_is_heard(bundle: Path) -> None:
    """By whoever stands in the project, or in a clone of it: the bundle itself cannot know."""
    commands.reject(*PASS, key(BOB), "a safety problem")
    release.commit("rejected")
    with pytest.raises(Rejected, match=r"rejected by bob@example\.org: a safety problem"):
        verify(bundle)


def test_nobody_takes_back_anothers_rejection(bundle: Path) -> None:
    """Not by an unsigned entry in their name either."""
    commands.reject(*PASS, key(BOB), "a safety problem")
    decision, _ = log.read(*PASS)[-1]
    previous = log.last(log.path(*PASS).read_text())
    log.append(decision.model_copy(update={"action": "approve", "previous": previous}), None, {})
    with pytest.raises(Rejected, match=r"rejected by bob@example\.org: a safety problem"):
        verify(bundle)


def test_a_report_that_was_edited_is_not_what_is_published(bundle: Path) -> None:
    for path in (paths.report(RECIPE, "md"), paths.report(RECIPE, "html"), paths.card(*PASS)):
        path.write_text("all is great")
    assert artifact.hash_files(release.published(registry="../other")) == artifact.hash_files(
        bundle
    )


def test_an_uncommitted_signoff_is_not_published(bundle: Path) -> None:
    commands.request(*PASS, None)
    with pytest.raises(QuantgateError, match="Commit the sign-off, then publish"):
        release.published(version="2")


def test_a_link_to_a_bundle_is_followed(bundle: Path) -> None:
    Path("../current").symlink_to(bundle.resolve())
    assert cli.main(["verify", "../current"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "--api-key-file FILE"),
        (["--api-key-file", "no-such-file"], "no-such-file"),
        (["--server", "apache"], "expected one of those that quantgate starts: own, ovms"),
        (["--server", "ovms"], "ovms: not found on the PATH"),
    ],
)
def test_what_cannot_be_served_so_is_said_before_anything_starts(
    bundle: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", str(bundle), *words]) == SetupError.exit_code
    assert said in capsys.readouterr().err


def test_what_speaks_for_a_model_can_be_had_without_it(bundle: Path) -> None:
    where = str(bundle.resolve().as_uri())
    with fetch.opened(where, policy.load(), model=False) as (folder, checked):
        there = {path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()}
        assert there == {"quantgate"}
        assert checked.standing.approved
        whole = check.check(bundle, policy.load(), datetime.datetime.now(datetime.UTC))
        assert checked.records == whole.records
        later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=4000)
        with pytest.raises(Rejected, match="it ended"):
            check.again(folder, checked, policy.load(), later)
        record = folder / "quantgate/records/verdict.json"
        record.write_text(record.read_text() + " ")
        with pytest.raises(Tampered, match=r"verdict\.json"):
            check.check(folder, policy.load(), datetime.datetime.now(datetime.UTC), model=False)
