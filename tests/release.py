"""A measured project in git with a policy and keys, and a bundle of it, for the tests of sign-off and publishing."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pipeline import publish, recipe, report, signing
from pipeline.signoff import verbs

AUTHOR, ADA, BOB, CI = "eve@example.org", "ada@example.org", "bob@example.org", "ci"
RECIPE, VARIANT = "tiny", "ov-int8"
PASS = (RECIPE, VARIANT)
RULES = "approvals: 1\nwaivable: [mean_kl]\n"


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=eve", "-c", f"user.email={AUTHOR}")
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout


def commit(message: str = "a change") -> None:
    git("add", "-A")
    git("commit", "-qm", message, "--allow-empty")


def key(name: str) -> str:
    """The path of somebody's private key, beside the project."""
    return f"../{name}.pem"


def person(name: str, role: str, until: str = "2999-12-31") -> str:
    pem = signing.make_key(Path(key(name))) if not Path(key(name)).is_file() else public(name)
    quoted = pem.strip().replace("\n", "\\n")
    return f'  {name}: {{role: {role}, key: "{quoted}", until: {until}}}\n'


def public(name: str) -> str:
    from cryptography.hazmat.primitives import serialization as form

    private = form.load_pem_private_key(Path(key(name)).read_bytes(), None)
    return private.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo).decode()


def write_policy(
    rules: str = "approvals: 1\nwaivable: [mean_kl]\n", until: str = "2999-12-31", people: tuple[str, ...] = (ADA, BOB)
) -> None:
    """Everybody's role is reviewer, but for Bob's, which is security."""
    approvers = "".join(person(name, "security" if name == BOB else "reviewer", until) for name in people)
    Path("signoff").mkdir(exist_ok=True)
    Path("signoff/policy.yaml").write_text(f"{rules}approvers:\n{approvers}publishers:\n{person(CI, 'publisher')}")
    commit("policy")


def start(measured: recipe.Recipe) -> None:
    """Puts the project into git, as by its author, with policy, keys and reports."""
    git("init", "-q")
    git("config", "user.email", AUTHOR)
    commit("first")
    report.write(RECIPE, measured)
    write_policy()


def approve(variant: str = VARIANT, by: str = ADA) -> None:
    verbs.request(RECIPE, variant, None)
    verbs.approve(RECIPE, variant, key(by), [], "", None)


def published(variant: str = VARIANT, version: str = "1", registry: str = "../registry") -> Path:
    """The folder of a published bundle."""
    publish.publish(RECIPE, variant, registry, key(CI), version)
    return Path(registry, RECIPE, variant, version)
