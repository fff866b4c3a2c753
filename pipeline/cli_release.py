"""The commands that have effects outside, or that follow a measurement: sign-off, publishing, and what a deployer runs."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import paths

POLICY = "signoff/policy.yaml"
KEY = "a PEM file; or NAME=hsm:... for a PKCS#11 token, NAME=sigstore:... (NAME as in the policy)"


def add(commands: Any) -> None:
    """Adds the parsers to those of `quantgate`."""

    def command(parent: Any, name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = parent.add_parser(name, help=text, description=text)
        parser.set_defaults(run=run)
        return parser

    text = "ask for an artifact's approval, decide about it, and see who decided what"
    signoff = commands.add_parser("signoff", help=text, description=text)
    verbs = signoff.add_subparsers(title="commands", required=True, metavar="COMMAND")
    key = command(verbs, "key", _key, "make a key: writes FILE, prints the public key for the policy")
    key.add_argument("file", metavar="FILE", type=paths.given)
    key.add_argument("--name", required=True, help="whose it is: of an approver the e-mail address that they commit under")
    key.add_argument("--role", required=True, help="as the policy's roles name it, such as reviewer; `publisher` signs bundles")
    request = _of_variant(command(verbs, "request", _request, "ask for the approval of an artifact as it is now"))
    request.add_argument("--by", metavar="EMAIL", help="who asks; default git's user.email")
    approve = _of_variant(command(verbs, "approve", _approve, "approve it, after deciding its verdict again from the evaluations"))
    approve.add_argument("--key", required=True, type=_key_or_path, help=KEY)
    approve.add_argument("--reason", default="", help="why; needed for a waiver")
    approve.add_argument(
        "--waive", metavar="CHECK", action="append", default=[], help="a check that failed; its name or first word"
    )
    approve.add_argument("--until", metavar="YYYY-MM-DD", type=datetime.date.fromisoformat, help="last day of the waiver (UTC)")
    approve.add_argument(
        "--remeasure",
        metavar="SHARE",
        type=float,
        help="first measure this share of the evaluation again on this machine, and compare",
    )
    reject = _of_variant(command(verbs, "reject", _reject, "reject it, or take an approval back"))
    reject.add_argument("--key", required=True, type=_key_or_path, help=KEY)
    reject.add_argument("--reason", required=True)
    reject.add_argument(
        "--manifest", metavar="SHA256", help="of an earlier artifact, as `signoff show` prints it; default: as it is now"
    )
    _of_variant(command(verbs, "show", _show, "print who decided what, and what follows"))
    _of_variant(command(verbs, "verify", _verify_signoff, "exit 1 unless the artifact is approved now"))

    publish = _of_variant(command(commands, "publish", _publish, "put an approved artifact into a registry, signed"))
    publish.add_argument(
        "--to", required=True, type=_url_or_path, metavar="URL", help="folder, s3://..., oci://..., mlflow+http://..., hf://OWNER"
    )
    publish.add_argument("--key", required=True, type=_key_or_path, help=KEY)
    publish.add_argument("--version", help="default: the first 12 digits of the manifest's SHA-256")
    _checked(command(commands, "list", _list, "print what a registry holds, and what of it is approved"), "URL")
    fetch = _checked(
        command(commands, "fetch", _fetch, "bring a bundle here, the latest without a version, believing nothing unchecked"), "URL"
    )
    fetch.add_argument("--to", required=True, metavar="FOLDER", type=paths.given)
    text = "check a bundle: exit 0 whole and approved, 1 not (or no longer) approved, 2 not found or unreadable, 3 tampered with"
    verify = _checked(command(commands, "verify", _verify, text), "PATH|URL")
    verify.add_argument("--recheck", action="store_true", help="also decide the verdict again, by the gate of this project")
    serve = _checked(command(commands, "serve", _serve, "check a bundle and start its engine as it was measured"), "PATH|URL")
    serve.add_argument("--host", help="of vLLM's server; default 127.0.0.1")
    serve.add_argument("--port", type=int, help="of vLLM's server; default 8000")


def _url_or_path(text: str) -> str:
    return text if "://" in text else str(paths.given(text))


def _key_or_path(text: str) -> str:
    return text if ":" in text.partition("=")[2] else str(paths.given(text))


def add_recipe(parser: argparse.ArgumentParser) -> None:
    told = "a file in recipes/, by its name (tiny) or its path (recipes/tiny.yaml)"
    parser.add_argument("recipe", type=paths.recipe_name, metavar="RECIPE", help=told)


def _of_variant(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    add_recipe(parser)
    parser.add_argument("variant", metavar="VARIANT")
    return parser


def _checked(parser: argparse.ArgumentParser, what: str) -> argparse.ArgumentParser:
    parser.add_argument("what", type=_url_or_path, metavar=what)
    parser.add_argument(
        "--policy", metavar="FILE", type=paths.given, default=Path(POLICY), help=f"whom to believe; default {POLICY}"
    )
    return parser


def _key(options: argparse.Namespace) -> None:
    from pipeline.release.signoff import verbs

    verbs.make_key(options.file, options.name, options.role)


def _request(options: argparse.Namespace) -> None:
    from pipeline.release.signoff import verbs

    verbs.request(options.recipe, options.variant, options.by)


def _approve(options: argparse.Namespace) -> None:
    from pipeline.release.signoff import verbs

    verbs.approve(options.recipe, options.variant, options.key, options.waive, options.reason, options.until, options.remeasure)


def _reject(options: argparse.Namespace) -> None:
    from pipeline.release.signoff import verbs

    verbs.reject(options.recipe, options.variant, options.key, options.reason, options.manifest)


def _show(options: argparse.Namespace) -> None:
    from pipeline.release.signoff import verbs

    verbs.show(options.recipe, options.variant)


def _verify_signoff(options: argparse.Namespace) -> None:
    from pipeline.release.signoff import verbs

    verbs.verify(options.recipe, options.variant)


def _publish(options: argparse.Namespace) -> None:
    from pipeline.release import publish

    publish.publish(options.recipe, options.variant, options.to, options.key, options.version)


def _list(options: argparse.Namespace) -> None:
    from pipeline.release import catalogue

    catalogue.show(options.what, options.policy)


def _fetch(options: argparse.Namespace) -> None:
    from pipeline.release import fetch

    fetch.fetch(options.what, options.to, options.policy)


def _verify(options: argparse.Namespace) -> None:
    from pipeline.release import fetch

    fetch.verify(options.what, options.policy, options.recheck)


def _serve(options: argparse.Namespace) -> None:
    from pipeline.release import deploy

    deploy.serve(options.what, options.policy, options.host, options.port)
