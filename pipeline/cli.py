"""The `quantgate` command, as a table: each line names the function that it calls. Modules are
imported when they are needed, so that --help and the shell's completion stay quick."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys

import click

from pipeline import __version__
from pipeline.cli_parameters import (
    ANY_VARIANT,
    KEY,
    PATH,
    RECIPE,
    URL,
    VARIANT,
    Command,
    Run,
    Sections,
    Stage,
    argument,
    group,
    option,
)
from pipeline.errors import QuantgateError
from pipeline.runtime import environments
from pipeline.runtime.progress import IN_RUN

DESCRIPTION = (
    "Quantize a checkpoint for OpenVINO and vLLM, measure every artifact on the engine that serves"
    " it, and say which may be shipped. The stages run in order with: dvc repro require@RECIPE"
)
STOPPED = "stopped; nothing half-written remains. Run the same command again."


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 not passed or not approved, 2 something is wrong and the message says
    what, 3 tampered with, 130 stopped by Ctrl-C."""
    os.environ.update(environments.UNTRACKED)
    asked = sys.argv[1:] if arguments is None else arguments
    try:
        return int(quantgate.main(asked or ["--help"], "quantgate", standalone_mode=False) or 0)
    except QuantgateError as error:
        return _ended(error, error.exit_code)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "quantgate"
        return _ended(f"{error.format_message()} See: {command} --help", error.exit_code)
    except click.Abort as stop:
        below = IN_RUN in os.environ
        return 130 if below else _ended(" ".join([STOPPED, *filter(None, stop.args)]), 130)
    # what the system refused; or, foreseen by nobody, a fault of quantgate's or of a library
    except Exception as error:
        try:
            from pipeline.runtime import crash
        except Exception:  # too little memory to import it; 1, as Python would end, is a verdict
            return _ended(f"{type(error).__name__}, and no room to say more", 2)
        return _ended(crash.last(f"quantgate {asked[0]}", error), 2)


def _ended(what: object, code: int) -> int:
    print(f"quantgate: {what}", file=sys.stderr)
    return code


def _day(
    ctx: click.Context, param: click.Parameter, value: datetime.datetime | None
) -> datetime.date | None:
    return value.date() if value else None


def plan(name: str, as_json: bool) -> None:
    """Raises RecipeError, CheckpointError or CalibrationError for what can be known to be
    impossible."""
    from pipeline.evidence import opened
    from pipeline.planning import index, local, plan

    with contextlib.redirect_stdout(
        sys.stderr if as_json else sys.stdout
    ):  # of what is asked in the tools' environments
        recipe = opened.unclimbed(name)
        index.check(name)
        local.refuse(recipe)
        planned = plan.of(recipe)
    print(planned.dumps(), end="") if as_json else plan.show(planned)


JSON = option("--json", "as_json", is_flag=True, help="print JSON")
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

CALIBRATION = group(
    "calibration",
    "write the prompt set of a file of one's own",
    Command(
        "add",
        "source.prompt_file:add",
        "a local file, with its hash",
        argument(
            "path",
            "FILE",
            "JSON lines (.jsonl) or a text (.txt, .md, .raw), also as .gz",
            type=PATH,
        ),
        option("--name", help="of the prompt set; default the file's"),
        option(
            "--field", help="the column that holds text or messages; default the only one that does"
        ),
        option("--licence", default="not stated", help="under which the text may be used"),
    ),
)
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
    "See and plan": [
        Command(
            "doctor",
            "planning.doctor:show",
            "say what this machine has and what each missing part would enable",
            JSON,
        ),
        Command(
            "setup",
            "runtime.environments:build",
            "install the pinned environments (all, or those named)",
            argument("names", "[NAME]...", nargs=-1),
        ),
        Command(
            "quantizers",
            "quantizers.listing:show",
            "print what each quantizer makes and which engine serves it",
            option("--markdown", is_flag=True, help="as docs/quantizers.md holds it"),
        ),
        Command("schema", "recipe:print_schema", "print the recipe's JSON schema, for editors"),
        Command(
            "init",
            "planning.start:init",
            "write a recipe for a model, with comments and limits that suit its size",
            argument("model", "MODEL", "a hub repository, OWNER/NAME, or a local folder"),
            option(
                "--path",
                metavar="FOLDER",
                help="a local copy of the hub's model, to start from instead",
            ),
            option(
                "--revision",
                help=(
                    "of the hub's model: a branch, tag or commit; default main, whose commit is"
                    " written"
                ),
            ),
            option("--name", help="of the recipe; default after MODEL"),
        ),
        CALIBRATION,
        Command(
            "index",
            "planning.index:run",
            "bring params.yaml in line with recipes/",
            option("--check", "check_only", is_flag=True, help="only say whether it is in line"),
        ),
        Command(
            "plan",
            "cli:plan",
            "show what would run, where, and an estimate of disk, memory and time",
            RECIPE,
            JSON,
        ),
    ],
    "Run and judge": [
        Run(
            "run",
            "stages.chain:run",
            "run the stages of a recipe as far as something changed, with the time left: dvc repro",
            RECIPE,
            option(
                "--until",
                type=click.Choice(["pin", "calibrate", "benchmark", "report", "require"]),
                default="require",
                show_default=True,
                help="the last stage",
            ),
        ),
        Stage(
            "require",
            "stages.require:run",
            "exit 1 unless every variant (or the one named) passed",
            RECIPE,
            ANY_VARIANT,
            JSON,
        ),
        Command(
            "compare",
            "report.compare_terminal:run",
            "set the variants side by side, or two runs of one recipe (--before)",
            RECIPE,
            JSON,
            option(
                "--before",
                metavar="REPORT.json",
                type=PATH,
                help="the JSON report of an earlier run",
            ),
        ),
        Command(
            "audit",
            "stages.audit.verb:audit",
            "put an artifact that quantgate did not make through a recipe's gate; exit 1 unless it"
            " passes",
            argument("given", "MODEL", "a folder, or OWNER/NAME@REVISION on the hub"),
            option(
                "--recipe",
                "recipe_name",
                metavar="RECIPE",
                type=RECIPE.type,
                required=True,
                help="whose texts, tasks, limits and source it is held to",
            ),
            option(
                "--against",
                metavar="SOURCE",
                help=(
                    "what it was made from, where that is not the recipe's model: a folder, or"
                    " OWNER/NAME@REVISION"
                ),
            ),
            option("--name", help="of its folder in artifacts/audits/RECIPE/; default after MODEL"),
        ),
    ],
    "Keep house": [
        Command(
            "artifacts",
            "evidence.inventory:show",
            "list what lies in artifacts/, with sizes and verdicts",
            option(
                "--check", is_flag=True, help="decide each verdict again; hashes every artifact"
            ),
        ),
        Command(
            "clean",
            "evidence.clean:clean",
            "remove what no recipe names any more, after asking",
            option("--yes", is_flag=True, help="without asking"),
        ),
    ],
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
    "Stages, as dvc.yaml calls them": [
        Stage("pin", "stages.pin:run", "fetch and check the source checkpoint", RECIPE),
        Stage(
            "calibrate",
            "stages.calibrate:run",
            "turn prompts and evaluation texts into token ids",
            RECIPE,
        ),
        Stage("reference", "stages.reference:run", "evaluate the source in float32", RECIPE),
        Stage("quantize", "stages.quantize:run", "make one artifact", RECIPE, VARIANT),
        Stage(
            "climb",
            "stages.climb:run",
            "make a ladder's rungs until one passes the gate",
            RECIPE,
            VARIANT,
        ),
        Stage(
            "evaluate", "stages.evaluate:run", "measure one artifact on its engine", RECIPE, VARIANT
        ),
        Stage(
            "gate",
            "stages.gate:run",
            "write the verdict of one artifact",
            RECIPE,
            VARIANT,
            option(
                "--recheck",
                is_flag=True,
                help="only say whether the stored verdict is what the evaluations give",
            ),
        ),
        Stage("trace", "stages.trace:run", "choose the requests of the benchmark", RECIPE),
        Stage(
            "benchmark",
            "stages.benchmark_http:command",
            "time the artifacts that passed",
            RECIPE,
            option(
                "--http", "served", metavar="VARIANT", help="time this variant over HTTP instead"
            ),
            option(
                "--url",
                help=(
                    "with --http: a server that runs already; default: vllm serve, started and"
                    " stopped"
                ),
            ),
            option("--model", help="with --url: the name under which the server has the model"),
        ),
        Stage("report", "stages.report:run", "write the recipe's report", RECIPE),
    ],
}
quantgate = Sections(
    SECTIONS, help=DESCRIPTION, context_settings={"help_option_names": ["-h", "--help"]}
)
quantgate = click.version_option(__version__, message="quantgate %(version)s")(quantgate)

if __name__ == "__main__":
    sys.exit(main())
