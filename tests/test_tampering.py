"""No tampering with a bundle passes: not an outsider's, not a publisher's, not a registry's."""

from __future__ import annotations

import base64
import datetime
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import cli, paths, records
from pipeline.errors import Rejected, Tampered
from pipeline.evidence import seals
from pipeline.records import artifact
from pipeline.release import signing
from pipeline.release.bundle import assemble, bom, layout, statements
from pipeline.release.registries import Entry
from pipeline.release.signoff import policy
from tests import release
from tests.release import BOB, CI, RECIPE, VARIANT, key, verify

pytestmark = pytest.mark.usefixtures("quick_gate")

Tamper = Callable[[Path], object]


def records_of(bundle: Path) -> Path:
    return bundle / layout.RECORDS


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, (path, old)
    path.unlink()  # a published file may be linked
    path.write_text(text.replace(old, new))


def resign(bundle: Path, entry: Entry | None = None) -> None:
    """What somebody can do who holds the publisher's key: make statements and signature fit
    whatever is there."""
    _, signer = signing.signer(
        key(CI), policy.load().keys(policy.load().publishers, datetime.datetime.now(datetime.UTC))
    )
    (bundle / paths.SIGNATURE).unlink()
    lines = [signing.sign(said, signer) for said in statements.make(layout.evidence(bundle))]
    records.write_text(bundle / layout.STATEMENTS, "".join(lines))
    assemble.sign(
        entry or Entry(RECIPE, VARIANT, "1"), artifact.hash_files(bundle), signer, CI, bundle
    )


def overwrite(name: str) -> Tamper:
    def tamper(bundle: Path) -> None:
        text = (bundle / name).read_bytes()
        (bundle / name).unlink()
        (bundle / name).write_bytes(text[:-1] + bytes([text[-1] ^ 1]))

    return tamper


def older_signature(bundle: Path) -> None:
    older = release.published(version="0")
    (bundle / paths.SIGNATURE).write_bytes((older / paths.SIGNATURE).read_bytes())
    overwrite("w")(bundle)


def unknown_publisher(bundle: Path) -> None:
    Path(key(CI)).rename("../before.pem")
    signing.make_key(Path(key(CI)))
    signer = signing.CryptoSigner(
        signing.serialization.load_pem_private_key(Path(key(CI)).read_bytes(), None)
    )
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
    "signature's payload": (
        lambda b: edit(b / paths.SIGNATURE, '"payload": "', '"payload": "e30'),
        paths.SIGNATURE,
    ),
    "no signature": (lambda b: (b / paths.SIGNATURE).unlink(), "not a signed bundle"),
    "an older signature": (older_signature, "w: 800 bytes"),
    "another's signature": (unknown_publisher, "signed by nobody whom the policy names"),
    "missing file": (lambda b: (b / "tokenizer.json").unlink(), "tokenizer.json: missing"),
    "extra file": (
        lambda b: (b / "pickle.bin").write_bytes(b"x"),
        "pickle.bin: not in the signature",
    ),
    "empty folder": (
        lambda b: (b / "quantgate" / "more").mkdir(),
        "quantgate/more: a folder of nothing that is signed",
    ),
    "link": (link, "links are no part of a bundle: w"),
    "link out of the folder": (
        lambda b: (b / "passwords").symlink_to("/etc/passwd"),
        "links are no part of a bundle: passwords",
    ),
}


@pytest.mark.parametrize("what", OUTSIDERS)
def test_what_an_outsider_changes_is_refused(
    bundle: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
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
    records.write_text(bundle / layout.BOM, bom.make(layout.read_records(layout.evidence(bundle))))


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
    signer = signing.CryptoSigner(
        signing.serialization.load_pem_private_key(Path(key(BOB)).read_bytes(), None)
    )
    said = signing.opened(lines[-1], "log").statement
    (bundle / layout.SIGNOFF).write_text(lines[0] + "\n" + signing.sign(said, signer))


def no_request(bundle: Path) -> None:
    lines = (bundle / layout.SIGNOFF).read_text().splitlines(keepends=True)
    (bundle / layout.SIGNOFF).write_text(lines[-1])


def nested(bundle: Path) -> None:
    (records_of(bundle) / "x").mkdir()
    (records_of(bundle) / "x" / "evil.py").write_text("")


def traversal(bundle: Path) -> None:
    files = [
        *artifact.hash_files(bundle),
        records.File(path="../../escaped", size_bytes=1, sha256="0" * 64),
    ]
    _, signer = signing.signer(
        key(CI), policy.load().keys(policy.load().publishers, datetime.datetime.now(datetime.UTC))
    )
    assemble.sign(
        Entry(RECIPE, VARIANT, "1"),
        [file for file in files if file.path != paths.SIGNATURE],
        signer,
        CI,
        bundle,
    )


def sealed_again(bundle: Path) -> None:
    edit(records_of(bundle) / "evaluation.json", '"tokenizer_probes": 8', '"tokenizer_probes": 9')
    for name in ("evaluation.json", "verdict.json"):
        path = records_of(bundle) / name
        record = records.read(path, seals.SEALED[name])
        assert record.seal is not None
        path.unlink()  # a published file may be linked
        seals.sealed(
            record, {source: records_of(bundle) / source for source in record.seal.made_from}
        ).write(path)


PUBLISHERS: dict[str, tuple[Tamper, str]] = {
    "weights": (overwrite("w"), "the manifest is of other model files"),
    "weights and manifest": (changed_artifact, "the evaluation is of another artifact"),
    "extra file": (
        lambda b: (b / "adapter.bin").write_bytes(b"x"),
        "the manifest is of other model files",
    ),
    "evaluation": (
        lambda b: edit(
            records_of(b) / "evaluation.json", '"tokenizer_probes": 8', '"tokenizer_probes": 9'
        ),
        "evaluation.json: changed since its stage wrote it",
    ),
    "evaluation, sealed again": (
        sealed_again,
        "it is of other records: evaluation.json, verdict.json changed since",
    ),
    "verdict": (better_verdict, "verdict.json: changed since its stage wrote it"),
    "benchmark": (
        lambda b: edit(records_of(b) / "benchmark.json", "150.0", "950.0"),
        "benchmark.json: changed since its stage wrote it",
    ),
    "recipe's limits": (
        lambda b: edit(records_of(b) / "recipe.yaml", "accuracy_drop", "accuracy_drop "),
        "recipe.yaml changed since",
    ),
    "samples": (
        lambda b: edit(records_of(b) / "samples.json", '"sha256": "', '"sha256": "0'),
        "calibrated on other samples",
    ),
    "source": (
        lambda b: edit(records_of(b) / "checkpoint.json", '"sha256": "555', '"sha256": "777'),
        "from another checkpoint",
    ),
    "a record less": (
        lambda b: (records_of(b) / "evaluation.json").unlink(),
        "records missing: evaluation.json",
    ),
    "serving settings": (
        lambda b: edit(b / layout.SERVE, "max_model_len", "max_model_length"),
        "serve.yaml: not what the records",
    ),
    "serving limits": (
        lambda b: edit(b / layout.SERVE, "engine: openvino", "engine: vllm"),
        "serve.yaml: not what the records give",
    ),
    "bill of materials": (
        lambda b: edit(b / layout.BOM, "CycloneDX", "CycloneDY"),
        "bom.cdx.json: not what the records give",
    ),
    "environment": (
        lambda b: edit(b / layout.pins("openvino"), "numpy==", "numpy==0."),
        "environments/openvino.txt: not the packages that the records name",
    ),
    "code": (
        lambda b: (b / "quantgate/evil.py").write_text(""),
        "quantgate/evil.py: no part of a bundle",
    ),
    "code in a folder": (nested, "quantgate/records/x/evil.py: no part of a bundle"),
    "a record more": (
        lambda b: (records_of(b) / "more.json").write_text("{}"),
        "it is of other records: more.json changed since",
    ),
    "sign-off of another variant": (replayed_signoff, "it is of tiny/ov-bf16"),
    "sign-off's end": (moved_waiver, "the signature of ada@example.org does not hold"),
    "sign-off by another": (
        forged,
        "a sign-off says it is by ada@example.org (reviewer); the key is that of bob@example.org",
    ),
    "sign-off without its request": (no_request, "entry 1: it does not follow the entry before it"),
    "no sign-off": (lambda b: (b / layout.SIGNOFF).unlink(), "0 of 1 approvals"),
}


@pytest.mark.parametrize("what", PUBLISHERS)
def test_what_a_publisher_changes_and_signs_again_is_refused(
    bundle: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The publisher's key alone makes nothing pass."""
    tamper, words = PUBLISHERS[what]
    tamper(bundle)
    if what != "a record less":
        resign(bundle)
        verdict = cli.main(["verify", str(bundle)])
    else:
        _, signer = signing.signer(
            key(CI),
            policy.load().keys(policy.load().publishers, datetime.datetime.now(datetime.UTC)),
        )
        (bundle / paths.SIGNATURE).unlink()
        assemble.sign(Entry(RECIPE, VARIANT, "1"), artifact.hash_files(bundle), signer, CI, bundle)
        verdict = cli.main(["verify", str(bundle)])
    assert verdict in (Rejected.exit_code, Tampered.exit_code)
    assert words in capsys.readouterr().err


def test_a_signed_name_that_leaves_the_folder_is_refused(bundle: Path) -> None:
    traversal(bundle)
    with pytest.raises(
        Tampered, match=r"lists '\.\./\.\./escaped', which is no file inside the bundle"
    ):
        verify(bundle)


def test_a_verdict_that_the_evaluations_do_not_give_is_refused(bundle: Path) -> None:
    better_verdict(bundle)
    resign(bundle)
    with pytest.raises(Tampered, match="the verdict is not what the evaluations give"):
        verify(bundle, recheck=True)


def test_a_registry_that_gives_another_bundle_is_refused(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = release.published("ov-bf16")
    shutil.rmtree(bundle)
    other.rename(bundle)
    assert (
        cli.main(["fetch", f"../registry/{RECIPE}/{VARIANT}/1", "--to", "../got"])
        == Tampered.exit_code
    )
    assert "the registry gave another bundle, tiny/ov-bf16/1" in capsys.readouterr().err
    assert not Path("../got").exists()


def test_a_registry_that_gives_an_older_version_is_refused(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = release.published(version="2")
    shutil.rmtree(newer)
    bundle.rename(newer)
    assert (
        cli.main(["fetch", f"../registry/{RECIPE}/{VARIANT}/2", "--to", "../got"])
        == Tampered.exit_code
    )
    assert "the registry gave another bundle, tiny/ov-int8/1" in capsys.readouterr().err


def test_nothing_of_a_tampered_bundle_is_left_here(bundle: Path) -> None:
    overwrite("w")(bundle)
    assert (
        cli.main(["fetch", f"../registry/{RECIPE}/{VARIANT}/1", "--to", "../got"])
        == Tampered.exit_code
    )
    assert not [path for path in Path("..").iterdir() if "got" in path.name]


def test_what_is_neither_file_nor_folder_is_refused(bundle: Path) -> None:
    os.mkfifo(bundle / "pipe")
    with pytest.raises(Tampered, match="neither files nor folders: pipe"):
        verify(bundle)
