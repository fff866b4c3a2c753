"""A bundle is whole, says all that is known of its artifact, and no tampering passes: not an outsider's, not a publisher's."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from pipeline import artifact, cli, fetch, paths, recipe, records, signing
from pipeline.bundle import assemble, check, layout, statements
from pipeline.errors import QuantgateError, Rejected, Tampered
from pipeline.registries import Entry
from pipeline.signoff import log, policy, verbs
from tests import release
from tests.release import ADA, BOB, CI, PASS, RECIPE, VARIANT, key

pytestmark = pytest.mark.usefixtures("quick_gate")

Tamper = Callable[[Path], object]


@pytest.fixture(scope="module")
def published_once(measured_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a published bundle, and with another variant's sign-off, which can be replayed."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(measured_once.parent, folder, symlinks=True, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "project")
        release.approve()
        release.approve("ov-bf16")
        release.published()
    return folder


@pytest.fixture
def bundle(published_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The published bundle, in a copy of that project."""
    shutil.copytree(published_once, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "project")
    return Path("../registry", RECIPE, VARIANT, "1")


def verify(bundle: Path, recheck: bool = False) -> None:
    check.check(bundle, policy.load(), datetime.datetime.now(datetime.UTC), recheck)


def records_of(bundle: Path) -> Path:
    return bundle / layout.RECORDS


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, (path, old)
    path.unlink()  # a published file may be linked
    path.write_text(text.replace(old, new))


def resign(bundle: Path, entry: Entry | None = None) -> None:
    """What somebody can do who holds the publisher's key: make statements and signature fit whatever is there."""
    _, signer = signing.signer(key(CI), policy.load().keys(policy.load().publishers, datetime.datetime.now(datetime.UTC)))
    (bundle / paths.SIGNATURE).unlink()
    lines = [signing.sign(said, signer) for said in statements.make(layout.evidence(bundle))]
    records.write_text(bundle / layout.STATEMENTS, "".join(lines))
    assemble.sign(entry or Entry(RECIPE, VARIANT, "1"), artifact.hash_files(bundle), signer, CI, bundle)


def test_a_bundle_is_whole_and_says_what_it_is(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(bundle), "--recheck"]) == 0
    said = capsys.readouterr().out
    assert f"{RECIPE}/{VARIANT}/1" in said
    assert "PASS; approved by ada@example.org (reviewer) until" in said
    kept = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    ours = {"serve.yaml", "bom.cdx.json", "policy.yaml", "signoff.jsonl", "statements.jsonl", "report.html", "report.md",
            "bundle.dsse.json", "environments/openvino.txt"}  # fmt: skip
    evidence = {f"records/{name}" for name in layout.REQUIRED | layout.FLOOR | {"texts.json"}}
    assert kept == {"w", "config.json", "tokenizer.json", "README.md", *(f"quantgate/{name}" for name in ours | evidence)}


def test_its_statements_are_in_totos_and_lead_from_source_to_figures(bundle: Path) -> None:
    lines = [json.loads(line) for line in (bundle / layout.STATEMENTS).read_text().splitlines()]
    said = [json.loads(base64.b64decode(line["payload"])) for line in lines]
    for one in said:
        Statement.copy_from_pb(json_format.ParseDict(one, statement_pb2.Statement())).validate()
        assert {subject["name"]: subject["digest"]["sha256"] for subject in one["subject"]} == {
            name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in ("w", "config.json", "tokenizer.json")
        }
    provenance, result, benchmark = (one["predicate"] for one in said)
    names = {resource["name"] for resource in provenance["buildDefinition"]["resolvedDependencies"]}
    assert names == {"source/w", "calibration samples", "recipe", "project", "environment openvino"}
    assert (result["result"], result["failedTests"], len(result["passedTests"])) == ("PASSED", [], 13)
    assert benchmark["measured"] is True


def test_its_bill_of_materials_is_cyclonedx(bundle: Path) -> None:
    """bom.make has the validator of CycloneDX's own library accept it; here, that the validator would refuse another."""
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
    verbs.reject(*PASS, key(BOB), "no")
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
    assert capsys.readouterr().out == f"../registry/{RECIPE}/{VARIANT}/1\n"
    assert cli.main(["fetch", f"../registry/{RECIPE}/{VARIANT}/1", "--to", "../got"]) == 0
    assert artifact.hash_files(Path("../got")) == artifact.hash_files(bundle)
    assert cli.main(["fetch", f"../registry/{RECIPE}/{VARIANT}/1", "--to", "../got"]) == 2
    assert "there is something already" in capsys.readouterr().err
    assert cli.main(["verify", "../nowhere"]) == 2


def overwrite(name: str) -> Tamper:
    def tamper(bundle: Path) -> None:
        text = (bundle / name).read_bytes()
        (bundle / name).unlink()
        (bundle / name).write_bytes(text[:-1] + bytes([text[-1] ^ 1]))

    return tamper


def swap_artifact(bundle: Path) -> None:
    """Another variant's bundle, whole and signed, under this one's name."""
    shutil.copytree(release.published("ov-bf16"), bundle, dirs_exist_ok=True)


def older_signature(bundle: Path) -> None:
    older = release.published(version="0")
    (bundle / paths.SIGNATURE).write_bytes((older / paths.SIGNATURE).read_bytes())
    overwrite("w")(bundle)


def unknown_publisher(bundle: Path) -> None:
    Path(key(CI)).rename("../before.pem")
    signing.make_key(Path(key(CI)))
    signer = signing.CryptoSigner(signing.serialization.load_pem_private_key(Path(key(CI)).read_bytes(), None))
    (bundle / paths.SIGNATURE).unlink()
    assemble.sign(Entry(RECIPE, VARIANT, "1"), artifact.hash_files(bundle), signer, CI, bundle)


def link(bundle: Path) -> None:
    (bundle / "w").unlink()
    (bundle / "w").symlink_to("config.json")


OUTSIDERS: dict[str, tuple[Tamper, str]] = {
    "weights": (overwrite("w"), "w: 800 bytes"),
    "config": (overwrite("config.json"), "config.json: 100 bytes"),
    "tokenizer": (overwrite("tokenizer.json"), "tokenizer.json: 100 bytes"),
    "card": (overwrite("README.md"), "README.md: "),
    "evaluation": (overwrite("quantgate/records/evaluation.json"), "evaluation.json: "),
    "verdict": (overwrite("quantgate/records/verdict.json"), "verdict.json: "),
    "sign-off": (overwrite("quantgate/signoff.jsonl"), "signoff.jsonl: "),
    "policy": (overwrite("quantgate/policy.yaml"), "policy.yaml: "),
    "serving settings": (overwrite("quantgate/serve.yaml"), "serve.yaml: "),
    "bill of materials": (overwrite("quantgate/bom.cdx.json"), "bom.cdx.json: "),
    "statements": (overwrite("quantgate/statements.jsonl"), "statements.jsonl: "),
    "signature": (overwrite(paths.SIGNATURE), "not a DSSE envelope"),
    "signature's payload": (lambda b: edit(b / paths.SIGNATURE, '"payload": "', '"payload": "e30'), paths.SIGNATURE),
    "no signature": (lambda b: (b / paths.SIGNATURE).unlink(), "not a signed bundle"),
    "an older signature": (older_signature, "w: 800 bytes"),
    "another's signature": (unknown_publisher, "signed by nobody whom the policy names"),
    "missing file": (lambda b: (b / "tokenizer.json").unlink(), "tokenizer.json: missing"),
    "extra file": (lambda b: (b / "pickle.bin").write_bytes(b"x"), "pickle.bin: not in the signature"),
    "link": (link, "links are no part of a bundle: w"),
    "link out of the folder": (lambda b: (b / "passwords").symlink_to("/etc/passwd"), "links are no part of a bundle: passwords"),
}


@pytest.mark.parametrize("what", OUTSIDERS)
def test_what_an_outsider_changes_is_refused(bundle: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    tamper, words = OUTSIDERS[what]
    tamper(bundle)
    assert cli.main(["verify", str(bundle)]) == Tampered.exit_code
    assert words in capsys.readouterr().err


def changed_artifact(bundle: Path) -> None:
    """Other weights, and a manifest that says so."""
    overwrite("w")(bundle)
    path = records_of(bundle) / "manifest.json"
    manifest = records.read(path, records.Manifest)
    files = [artifact.hash_file(bundle / file.path, file.path) for file in manifest.files]
    manifest.model_copy(update={"files": files}).write(path)


def better_verdict(bundle: Path) -> None:
    edit(records_of(bundle) / "verdict.json", '"value": 0.0001', '"value": 0.0')


def replayed_signoff(bundle: Path) -> None:
    (bundle / layout.SIGNOFF).write_bytes(Path("signoff/tiny/ov-bf16.jsonl").read_bytes())


def moved_waiver(bundle: Path) -> None:
    reworded(bundle, b'"until":"2', b'"until":"3')


def reworded(bundle: Path, old: bytes, new: bytes) -> None:
    lines = (bundle / layout.SIGNOFF).read_text().splitlines()
    envelope = json.loads(lines[-1])
    payload = base64.b64decode(envelope["payload"])
    assert old in payload
    envelope["payload"] = base64.b64encode(payload.replace(old, new)).decode()
    (bundle / layout.SIGNOFF).write_text("\n".join([*lines[:-1], json.dumps(envelope)]) + "\n")


def forged(bundle: Path) -> None:
    """An approval by the publisher in Ada's name."""
    lines = (bundle / layout.SIGNOFF).read_text().splitlines()
    signer = signing.CryptoSigner(signing.serialization.load_pem_private_key(Path(key(BOB)).read_bytes(), None))
    said = signing.opened(lines[-1], "log").statement
    (bundle / layout.SIGNOFF).write_text(lines[0] + "\n" + signing.sign(said, signer))


def no_request(bundle: Path) -> None:
    lines = (bundle / layout.SIGNOFF).read_text().splitlines(keepends=True)
    (bundle / layout.SIGNOFF).write_text(lines[-1])


def traversal(bundle: Path) -> None:
    files = [*artifact.hash_files(bundle), records.File(path="../../escaped", size_bytes=1, sha256="0" * 64)]
    _, signer = signing.signer(key(CI), policy.load().keys(policy.load().publishers, datetime.datetime.now(datetime.UTC)))
    assemble.sign(Entry(RECIPE, VARIANT, "1"), [file for file in files if file.path != paths.SIGNATURE], signer, CI, bundle)


PUBLISHERS: dict[str, tuple[Tamper, str]] = {
    "weights": (overwrite("w"), "the manifest is of other model files"),
    "weights and manifest": (changed_artifact, "the evaluation is of another artifact"),
    "extra file": (lambda b: (b / "adapter.bin").write_bytes(b"x"), "the manifest is of other model files"),
    "evaluation": (
        lambda b: edit(records_of(b) / "evaluation.json", '"wall_s": 0', '"wall_s": 1'),
        "evaluation.json changed since",
    ),
    "verdict": (better_verdict, "verdict.json changed since"),
    "benchmark": (lambda b: edit(records_of(b) / "benchmark.json", "150.0", "950.0"), "benchmark.json changed since"),
    "recipe's limits": (
        lambda b: edit(records_of(b) / "recipe.yaml", "accuracy_drop", "accuracy_drop "),
        "recipe.yaml changed since",
    ),
    "samples": (lambda b: edit(records_of(b) / "samples.json", '"sha256": ""', '"sha256": "0"'), "calibrated on other samples"),
    "source": (lambda b: edit(records_of(b) / "checkpoint.json", '"sha256": "555', '"sha256": "777'), "from another checkpoint"),
    "a record less": (lambda b: (records_of(b) / "evaluation.json").unlink(), "records missing: evaluation.json"),
    "sign-off of another variant": (replayed_signoff, "it is of tiny/ov-bf16"),
    "sign-off's end": (moved_waiver, "the signature of ada@example.org does not hold"),
    "sign-off by another": (forged, "a sign-off says it is by ada@example.org (reviewer); the key is that of bob@example.org"),
    "sign-off without its request": (no_request, "entry 1: it does not follow the entry before it"),
    "no sign-off": (lambda b: (b / layout.SIGNOFF).unlink(), "0 of 1 approvals"),
}


@pytest.mark.parametrize("what", PUBLISHERS)
def test_what_a_publisher_changes_and_signs_again_is_refused(bundle: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The publisher's key alone makes nothing pass."""
    tamper, words = PUBLISHERS[what]
    tamper(bundle)
    if what != "a record less":
        resign(bundle)
        verdict = cli.main(["verify", str(bundle)])
    else:
        _, signer = signing.signer(key(CI), policy.load().keys(policy.load().publishers, datetime.datetime.now(datetime.UTC)))
        (bundle / paths.SIGNATURE).unlink()
        assemble.sign(Entry(RECIPE, VARIANT, "1"), artifact.hash_files(bundle), signer, CI, bundle)
        verdict = cli.main(["verify", str(bundle)])
    assert verdict in (Rejected.exit_code, Tampered.exit_code)
    assert words in capsys.readouterr().err


def test_a_signed_name_that_leaves_the_folder_is_refused(bundle: Path) -> None:
    traversal(bundle)
    with pytest.raises(Tampered, match=r"lists '\.\./\.\./escaped', which is no file inside the bundle"):
        verify(bundle)


def test_a_verdict_that_the_evaluations_do_not_give_is_refused(bundle: Path) -> None:
    better_verdict(bundle)
    resign(bundle)
    with pytest.raises(Tampered, match="the verdict is not what the evaluations give"):
        verify(bundle, recheck=True)


def test_a_registry_that_gives_another_bundle_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = release.published("ov-bf16")
    shutil.rmtree(bundle)
    other.rename(bundle)
    assert cli.main(["fetch", f"../registry/{RECIPE}/{VARIANT}/1", "--to", "../got"]) == Tampered.exit_code
    assert "the registry gave another bundle, tiny/ov-bf16/1" in capsys.readouterr().err
    assert not Path("../got").exists()


def test_a_registry_that_gives_an_older_version_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = release.published(version="2")
    shutil.rmtree(newer)
    bundle.rename(newer)
    assert cli.main(["fetch", f"../registry/{RECIPE}/{VARIANT}/2", "--to", "../got"]) == Tampered.exit_code
    assert "the registry gave another bundle, tiny/ov-int8/1" in capsys.readouterr().err


def test_nothing_of_a_tampered_bundle_is_left_here(bundle: Path) -> None:
    overwrite("w")(bundle)
    assert cli.main(["fetch", f"../registry/{RECIPE}/{VARIANT}/1", "--to", "../got"]) == Tampered.exit_code
    assert not [path for path in Path("..").iterdir() if "got" in path.name]


def test_a_policy_of_the_reader_decides(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strict = Path("../strict.yaml")
    strict.write_text(Path("signoff/policy.yaml").read_text().replace("approvals: 1", "approvals: 2"))
    assert cli.main(["verify", str(bundle), "--policy", str(strict)]) == Rejected.exit_code
    assert "1 of 2 approvals" in capsys.readouterr().err


def test_an_ended_approval_or_key_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.datetime.now(datetime.UTC)
    rules = policy.load()
    with pytest.raises(Rejected, match="it ended"):
        check.check(bundle, rules, now + datetime.timedelta(days=91))
    yesterday = now.date() - datetime.timedelta(days=1)
    ended = {name: person.model_copy(update={"until": yesterday}) for name, person in rules.publishers.items()}
    with pytest.raises(Tampered, match="signed by nobody whom the policy names for that"):
        check.check(bundle, rules.model_copy(update={"publishers": ended}), now)
    ended = {ADA: rules.approvers[ADA].model_copy(update={"until": yesterday})}
    with pytest.raises(Rejected, match="the policy names no such key, or it has ended"):
        check.check(bundle, rules.model_copy(update={"approvers": ended}), now)


def test_a_bundle_that_is_fetched_is_that_which_was_published(bundle: Path) -> None:
    with fetch.opened(f"../registry/{RECIPE}/{VARIANT}/1", policy.load()) as (folder, checked):
        assert artifact.hash_files(folder) == artifact.hash_files(bundle)
        assert checked.standing.approved


def test_a_rejection_after_publishing_is_heard(bundle: Path) -> None:
    """By whoever stands in the project, or in a clone of it: the bundle itself cannot know."""
    verbs.reject(*PASS, key(BOB), "a safety problem")
    release.commit("rejected")
    with pytest.raises(Rejected, match=r"rejected by bob@example\.org: a safety problem"):
        verify(bundle)


def test_nobody_takes_back_anothers_rejection(bundle: Path) -> None:
    """Not by an unsigned entry in their name either."""
    verbs.reject(*PASS, key(BOB), "a safety problem")
    decision, _ = log.read(*PASS)[-1]
    previous = log.last(log.path(*PASS).read_text())
    log.append(decision.model_copy(update={"action": "approve", "previous": previous}), None)
    with pytest.raises(Rejected, match=r"rejected by bob@example\.org: a safety problem"):
        verify(bundle)


def test_a_report_that_was_edited_is_not_what_is_published(bundle: Path) -> None:
    for path in (paths.report(RECIPE, "md"), paths.report(RECIPE, "html"), paths.card(*PASS)):
        path.write_text("all is great")
    assert artifact.hash_files(release.published(registry="../other")) == artifact.hash_files(bundle)


def test_an_uncommitted_signoff_is_not_published(bundle: Path) -> None:
    verbs.request(*PASS, None)
    with pytest.raises(QuantgateError, match="Commit the sign-off, then publish"):
        release.published(version="2")


def test_what_is_neither_file_nor_folder_is_refused(bundle: Path) -> None:
    os.mkfifo(bundle / "pipe")
    with pytest.raises(Tampered, match="neither files nor folders: pipe"):
        verify(bundle)


def test_a_link_to_a_bundle_is_followed(bundle: Path) -> None:
    Path("../current").symlink_to(bundle.resolve())
    assert cli.main(["verify", "../current"]) == 0
