"""The part of the table in pipeline/cli that begins where an artifact has passed: who approved it,
where it is published, what serves it."""

from __future__ import annotations

import datetime

import click

from pipeline.cli_parameters import (
    JSON,
    KEY,
    PATH,
    RECIPE,
    URL,
    VARIANT,
    Command,
    argument,
    group,
    option,
)


def _day(
    ctx: click.Context, param: click.Parameter, value: datetime.datetime | None
) -> datetime.date | None:
    return value.date() if value else None


SIGNED_BY = option(
    "--key",
    required=True,
    type=KEY,
    help=(
        "a PEM file; or NAME=hsm:... for a PKCS#11 token, NAME=sigstore:... (NAME as in the policy)"
    ),
)
POLICY = option(
    "--policy",
    "rules_path",
    metavar="FILE",
    type=PATH,
    default="signoff/policy.yaml",
    show_default=True,
    help="whom to believe",
)
BUNDLE = argument("what", "PATH|URL", "a bundle: its folder, or where it is published", type=URL)

DEPLOY = argument("path", "DEPLOY.yaml", "what is deployed: docs/gateway.md", type=PATH)


SIGNOFF = group(
    "signoff",
    "ask for an artifact's approval, decide about it, and see who decided what",
    Command(
        "key",
        "release.signoff.commands:make_key",
        "make a key: writes FILE, prints the public key for the policy",
        argument("path", "FILE", type=PATH),
        option(
            "--name",
            required=True,
            help="whose it is: of an approver the e-mail address that they commit under",
        ),
        option(
            "--role",
            required=True,
            help="as the policy's roles name it, such as reviewer; `publisher` signs bundles",
        ),
    ),
    Command(
        "request",
        "release.signoff.commands:request",
        "ask for the approval of an artifact as it is now",
        RECIPE,
        VARIANT,
        option("--by", metavar="EMAIL", help="who asks; default git's user.email"),
    ),
    Command(
        "approve",
        "release.signoff.commands:approve",
        "approve it, after deciding its verdict again from the evaluations",
        RECIPE,
        VARIANT,
        SIGNED_BY,
        option("--reason", default="", help="why; needed for a waiver"),
        option(
            "--waive",
            metavar="CHECK",
            multiple=True,
            help="a check that failed; its name or first word",
        ),
        option(
            "--until",
            metavar="YYYY-MM-DD",
            type=click.DateTime(["%Y-%m-%d"]),
            callback=_day,
            help="last day of the waiver (UTC)",
        ),
        option(
            "--remeasure",
            metavar="SHARE",
            type=float,
            help="first measure this share of the evaluation again on this machine, and compare",
        ),
    ),
    Command(
        "reject",
        "release.signoff.commands:reject",
        "reject it, or take an approval back",
        RECIPE,
        VARIANT,
        SIGNED_BY,
        option("--reason", required=True, help="why"),
        option(
            "--manifest",
            metavar="SHA256",
            help="of an earlier artifact, as `signoff show` prints it; default: as it is now",
        ),
    ),
    Command(
        "show",
        "release.signoff.commands:show",
        "print who decided what, and what follows",
        RECIPE,
        VARIANT,
    ),
    Command(
        "verify",
        "release.signoff.commands:verify",
        "exit 1 unless the artifact is approved now",
        RECIPE,
        VARIANT,
    ),
)
SECTIONS: dict[str, list[click.Command]] = {
    "Sign off and publish": [
        SIGNOFF,
        Command(
            "publish",
            "release.publish:publish",
            "put an approved artifact into a registry, signed",
            RECIPE,
            VARIANT,
            SIGNED_BY,
            option(
                "--to",
                "url",
                required=True,
                type=URL,
                metavar="URL",
                help="folder, s3://..., oci://..., mlflow+http://..., hf://OWNER",
            ),
            option("--version", help="default: the first 12 digits of the manifest's SHA-256"),
        ),
    ],
    "Deploy": [
        Command(
            "list",
            "release.catalogue:show",
            "print what a registry holds, and what of it is approved",
            argument("url", "URL", "a registry's", type=URL),
            POLICY,
        ),
        Command(
            "fetch",
            "release.fetch:fetch",
            "bring a bundle here, the latest without a version, believing nothing unchecked",
            argument("url", "URL", "of a registry, with recipe, variant and version", type=URL),
            POLICY,
            option(
                "--to",
                "target",
                required=True,
                metavar="FOLDER",
                type=PATH,
                help="a folder that does not exist",
            ),
        ),
        Command(
            "verify",
            "release.fetch:verify",
            "check a bundle: exit 0 whole and approved, 1 not (or no longer) approved, 2 not found"
            " or unreadable, 3 tampered with",
            BUNDLE,
            POLICY,
            option(
                "--recheck",
                is_flag=True,
                help="also decide the verdict again, by the gate of this project",
            ),
        ),
        Command(
            "serve",
            "release.deploy:serve",
            "check a bundle and start its engine as it was measured, with the OpenAI API",
            BUNDLE,
            POLICY,
            option("--host", help="where it listens; default 127.0.0.1"),
            option("--port", type=int, help="default 8000"),
            option(
                "--api-key-file",
                metavar="FILE",
                type=PATH,
                help="what clients must send as their bearer token; needed beyond this machine",
            ),
            option(
                "--server",
                "kind",
                metavar="NAME",
                help="ovms: OpenVINO Model Server in place of our own, where it is installed",
            ),
        ),
    ],
    "Many artifacts behind one address": [
        Command(
            "gateway",
            "gateway.command:run",
            "serve approved artifacts on several servers as one OpenAI endpoint",
            DEPLOY,
        ),
        Command(
            "deploy-files",
            "gateway.files.write:write",
            "write the files that run a deployment elsewhere, of bundles that are approved",
            DEPLOY,
            option(
                "--to",
                "kind",
                required=True,
                help="what runs it",
                type=click.Choice(["compose", "kubernetes", "systemd", "litellm", "monitoring"]),
            ),
            option("--out", required=True, metavar="FOLDER", type=PATH, help="a new folder"),
            option("--image", metavar="NAME:TAG", help="of the gateway; default quantgate:VERSION"),
        ),
        Command(
            "usage",
            "gateway.usage:show",
            "print what was used and what it cost, by feature",
            DEPLOY,
            option(
                "--days",
                type=click.IntRange(1, 3660),
                default=30,
                show_default=True,
                help="the last days (UTC), today among them",
            ),
            JSON,
        ),
    ],
}
