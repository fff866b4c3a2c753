"""The `quantgate` command, as a table: each line names the function that it calls. Modules are
imported when they are needed, so that --help and the shell's completion stay quick."""

from __future__ import annotations

import contextlib
import os
import sys

import click

from pipeline import __version__, cli_release
from pipeline.cli_parameters import (
    ANY_VARIANT,
    CLUSTER,
    JSON,
    PATH,
    RECIPE,
    VARIANT,
    Command,
    Kept,
    Run,
    Sections,
    Stage,
    argument,
    group,
    option,
)
from pipeline.errors import NoMemory, QuantgateError
from pipeline.runtime import environments
from pipeline.runtime.progress import IN_RUN

DESCRIPTION = (
    "Quantize a checkpoint for OpenVINO and vLLM, measure every artifact on the engine that serves"
    " it, and say which may be shipped. The stages run in order with: dvc repro require@RECIPE"
)
STOPPED = "stopped; nothing half-written remains. Run the same command again."


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 not passed or not approved, 2 something is wrong and the message says
    what, 3 tampered with, 4 this machine's disk is full, 5 its memory is too little, 130 stopped by
    Ctrl-C."""
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
            return _ended(f"{type(error).__name__}, and no room to say more", NoMemory.exit_code)
        last = crash.last(f"quantgate {asked[0]}", error)
        return _ended(last, last.exit_code)


def _ended(what: object, code: int) -> int:
    print(f"quantgate: {what}", file=sys.stderr)
    return code


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
        Command(
            "spread",
            "spread.command:spread",
            "run the stages whose results the store lacks on a Ray cluster",
            RECIPE,
            CLUSTER,
            JSON,
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
    **cli_release.SECTIONS,
    "Stages, as dvc.yaml calls them": [
        Stage("pin", "stages.pin:run", "fetch and check the source checkpoint", RECIPE),
        Kept(
            "calibrate",
            "stages.calibrate:run",
            "turn prompts and evaluation texts into token ids",
            RECIPE,
        ),
        Kept("reference", "stages.reference:run", "evaluate the source in float32", RECIPE),
        Kept("quantize", "stages.quantize:run", "make one artifact", RECIPE, VARIANT),
        Kept(
            "climb",
            "stages.climb:run",
            "make a ladder's rungs until one passes the gate",
            RECIPE,
            VARIANT,
        ),
        Kept(
            "evaluate", "stages.evaluate:run", "measure one artifact on its engine", RECIPE, VARIANT
        ),
        Kept(
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
        Kept("trace", "stages.trace:run", "choose the requests of the benchmark", RECIPE),
        Kept(
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
