"""A measured project in git with a policy and keys, and a bundle of it, for the tests of sign-off
and publishing."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from pipeline import paths, recipe, records, report
from pipeline.evidence import opened, provenance, seals
from pipeline.release import publish, signing
from pipeline.release.bundle import check
from pipeline.release.signoff import commands, policy

AUTHOR, ADA, BOB, CI = "eve@example.org", "ada@example.org", "bob@example.org", "ci"
RECIPE, VARIANT = "tiny", "ov-int8"
PASS = (RECIPE, VARIANT)
RULES = "approvals: 1\nwaivable: [mean_kl]\n"


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=eve", "-c", f"user.email={AUTHOR}")
    return subprocess.run(
        ["git", *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout


def commit(message: str = "a change") -> None:
    git("add", "-A")
    git("commit", "-qm", message, "--allow-empty")


def key(name: str) -> str:
    """The path of somebody's private key, beside the project."""
    return f"../{name}.pem"


def person(name: str, role: str, pem: str, until: str = "2999-12-31") -> str:
    """A line of the policy."""
    quoted = pem.strip().replace("\n", "\\n")
    return f'  {name}: {{role: {role}, key: "{quoted}", until: {until}}}\n'


def public(key_file: str) -> str:
    """The public key of a private one's file, which is made if it is not there; PEM."""
    if not Path(key_file).is_file():
        return signing.make_key(Path(key_file))
    private = serialization.load_pem_private_key(Path(key_file).read_bytes(), None)
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return private.public_key().public_bytes(encoding, form).decode()


def write_policy(
    rules: str = "approvals: 1\nwaivable: [mean_kl]\n",
    until: str = "2999-12-31",
    people: tuple[str, ...] = (ADA, BOB),
) -> None:
    """Everybody's role is reviewer, but for Bob's, which is security."""
    roles = {name: "security" if name == BOB else "reviewer" for name in people}
    approvers = "".join(
        person(name, role, public(key(name)), until) for name, role in roles.items()
    )
    Path("signoff").mkdir(exist_ok=True)
    Path("signoff/policy.yaml").write_text(
        f"{rules}approvers:\n{approvers}publishers:\n{person(CI, 'publisher', public(key(CI)))}"
    )
    commit("policy")


def start(measured: recipe.Recipe) -> None:
    """Puts the project into git, as by its author, with policy, keys and reports."""
    git("init", "-q")
    git("config", "user.email", AUTHOR)
    commit("first")
    made_here()
    report.write(measured)
    write_policy()


def made_here() -> None:
    """Has the records say that they were made by the project as it is committed now."""
    origin = provenance.now(RECIPE, "openvino")
    kinds: tuple[tuple[str, type[records.Manifest] | type[records.Evaluation]], ...]
    kinds = (("manifests", records.Manifest), ("evaluations", records.Evaluation))
    for folder, kind in kinds:
        for path in (paths.ARTIFACTS / folder / RECIPE).glob("*.json"):
            records.read(path, kind).model_copy(update={"origin": origin}).write(path)
    seal_again()


def seal_again() -> None:
    """What who owns the machine can do: all records seal what they say now."""
    measured = opened.recipe(RECIPE)
    for variant in measured.variants:
        found = seals.kept(opened.candidate(RECIPE, variant))
        for name, kind in seals.SEALED.items():
            if found[name].is_file():
                record = records.read(found[name], kind)
                assert record.seal is not None
                seals.sealed(
                    record, {source: found[source] for source in record.seal.made_from}
                ).write(found[name])


def approve(variant: str = VARIANT, by: str = ADA) -> None:
    approve_here(variant, by)
    commit("signed off")


def approve_here(variant: str = VARIANT, by: str = ADA) -> None:
    """Asks and approves, and commits nothing."""
    commands.request(RECIPE, variant, None)
    commands.approve(RECIPE, variant, key(by), [], "", None)


def published(variant: str = VARIANT, version: str = "1", registry: str = "../registry") -> Path:
    """The folder of a published bundle."""
    publish.publish(RECIPE, variant, registry, key(CI), version)
    return Path(registry, RECIPE, variant, version)


def verify(bundle: Path, recheck: bool = False) -> None:
    """By the project's policy, now."""
    check.check(bundle, policy.load(), datetime.datetime.now(datetime.UTC), recheck)
