"""The `quantgate` command: thin. Each subcommand imports its part when it is called, so that --help stays quick."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable

from pipeline import __version__, cli_release, paths
from pipeline.errors import QuantgateError, RecipeError
from pipeline.runtime import crash, environments

DESCRIPTION = (
    "Quantize a checkpoint for OpenVINO and vLLM, measure every artifact on the engine that serves it, and say which "
    "may be shipped. The stages run in order with: dvc repro require@RECIPE"
)


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 not passed or not approved, 2 something is wrong and the message says what, 3 tampered with."""
    os.environ.update(environments.UNTRACKED)
    asked = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(asked or ["--help"])
    try:
        return int(options.run(options) or 0)
    except QuantgateError as error:
        print(f"quantgate: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # whoever read has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except OSError as error:
        print(f"quantgate: {crash.of_system(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("quantgate: stopped; nothing half-written remains. Run the same command again.", file=sys.stderr)
        if hasattr(options, "recipe"):
            print("DVC removes a stage's earlier output before it runs it: dvc checkout brings that back.", file=sys.stderr)
        return 130
    except Exception as error:  # foreseen by nobody: a fault of quantgate's or of a library
        print(f"quantgate: {crash.sentence(f'quantgate {options.command}', error)}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="quantgate", description=DESCRIPTION)
    found.add_argument("--version", action="version", version=f"quantgate {__version__}")
    commands = found.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run, command=name)
        return command

    def stage(name: str, text: str, variant: bool) -> argparse.ArgumentParser:
        command = add(name, lambda options: _stage(name, options), text)
        cli_release.add_recipe(command)
        if variant:
            command.add_argument("variant", metavar="VARIANT", help="name of a variant in the recipe")
        return command

    plan = add("plan", _plan, "show what would run, where, and an estimate of disk, memory and time")
    cli_release.add_recipe(plan)
    add("doctor", _doctor, "say what this machine has and what each missing part would enable")
    setup = add("setup", _setup, "install the pinned environments (all, or those named)")
    setup.add_argument("names", metavar="NAME", nargs="*")
    index = add("index", _index, "bring params.yaml in line with recipes/")
    index.add_argument("--check", action="store_true", help="only say whether it is in line")
    made = add("quantizers", _quantizers, "print what each quantizer makes and which engine serves it")
    made.add_argument("--markdown", action="store_true", help="as docs/quantizers.md holds it")
    add("schema", _schema, "print the recipe's JSON schema, for editors")
    sets = add("calibration", _calibration, "write the prompt set of a file of one's own")
    added = sets.add_subparsers(title="commands", required=True, metavar="COMMAND").add_parser(
        "add", help="a local file, with its hash"
    )
    added.add_argument(
        "file", type=paths.given, metavar="FILE", help="JSON lines (.jsonl) or a text (.txt, .md, .raw), also as .gz"
    )
    added.add_argument("--name", help="of the prompt set; default the file's")
    added.add_argument("--field", help="the column that holds text or messages; default the only one that does")
    added.add_argument("--licence", default="not stated", help="under which the text may be used")
    stage("pin", "fetch and check the source checkpoint", variant=False)
    stage("calibrate", "turn prompts and evaluation texts into token ids", variant=False)
    stage("reference", "evaluate the source in float32", variant=False)
    stage("quantize", "make one artifact", variant=True)
    stage("climb", "make a ladder's rungs until one passes the gate", variant=True)
    stage("evaluate", "measure one artifact on its engine", variant=True)
    gate = stage("gate", "write the verdict of one artifact", variant=True)
    gate.add_argument("--recheck", action="store_true", help="only say whether the stored verdict is what the evaluations give")
    stage("trace", "choose the requests of the benchmark", variant=False)
    timed = add("benchmark", _benchmark, "time the artifacts that passed")
    _take_benchmark(timed)
    stage("report", "write the recipe's report", variant=False)
    compare = add("compare", _compare, "set the variants side by side, or two runs of one recipe (--before)")
    cli_release.add_recipe(compare)
    compare.add_argument("--before", metavar="REPORT.json", help="the JSON report of an earlier run")
    compare.add_argument("--json", action="store_true", help="print JSON")
    audit = add("audit", _audit, "put an artifact that quantgate did not make through a recipe's gate; exit 1 unless it passes")
    _take_audit(audit)
    require = add("require", _require, "exit 1 unless every variant (or the one named) passed")
    cli_release.add_recipe(require)
    require.add_argument("variant", metavar="VARIANT", nargs="?")
    cli_release.add(commands)
    return found


def _take_benchmark(timed: argparse.ArgumentParser) -> None:
    cli_release.add_recipe(timed)
    timed.add_argument("--http", metavar="VARIANT", dest="served", help="time this variant over HTTP instead")
    timed.add_argument("--url", help="with --http: a server that runs already; default: vllm serve, started and stopped")
    timed.add_argument("--model", help="with --url: the name under which the server has the model")


def _take_audit(audit: argparse.ArgumentParser) -> None:
    audit.add_argument("model", metavar="MODEL", help="a folder, or OWNER/NAME@REVISION on the hub")
    audit.add_argument(
        "--recipe",
        type=paths.recipe_name,
        metavar="RECIPE",
        required=True,
        help="whose texts, tasks, limits and source it is held to",
    )
    audit.add_argument(
        "--against",
        metavar="SOURCE",
        help="what it was made from, where that is not the recipe's model: a folder, or OWNER/NAME@REVISION",
    )
    audit.add_argument("--name", help="of its folder in artifacts/audits/RECIPE/; default after MODEL")


def _stage(name: str, options: argparse.Namespace) -> None:
    from pipeline.evidence import current
    from pipeline.planning import index

    index.check(options.recipe)
    run = current.recheck if getattr(options, "recheck", False) else importlib.import_module(f"pipeline.stages.{name}").run
    variant = getattr(options, "variant", None)
    run(options.recipe, *([variant] if variant else []))


def _benchmark(options: argparse.Namespace) -> None:
    from pipeline.planning import index
    from pipeline.stages import benchmark, benchmark_http

    index.check(options.recipe)
    if (options.url and not options.served) or (options.model and not options.url):
        raise RecipeError("--url needs --http VARIANT, and --model needs --url. See: quantgate benchmark --help")
    if options.served:
        benchmark_http.run(options.recipe, options.served, options.url, options.model)
    else:
        benchmark.run(options.recipe)


def _compare(options: argparse.Namespace) -> None:
    from pipeline import paths
    from pipeline.report import compare_terminal

    paths.require_project()
    compare_terminal.run(options.recipe, options.before, options.json)


def _audit(options: argparse.Namespace) -> None:
    from pipeline.stages.audit.verb import audit

    audit(options.model, options.name, options.recipe, options.against)


def _require(options: argparse.Namespace) -> None:
    from pipeline.planning import index
    from pipeline.stages import require

    index.check(options.recipe)
    require.run(options.recipe, options.variant)


def _plan(options: argparse.Namespace) -> None:
    from pipeline.evidence import opened
    from pipeline.planning import index, local, plan

    recipe = opened.unclimbed(options.recipe)
    index.check(options.recipe)
    local.refuse(options.recipe, recipe)
    plan.show(options.recipe, recipe)


def _doctor(options: argparse.Namespace) -> None:
    from pipeline.planning import doctor

    doctor.show()


def _setup(options: argparse.Namespace) -> int:
    return environments.main(options.names)


def _index(options: argparse.Namespace) -> None:
    from pipeline.planning import index

    if options.check:
        index.check()
    elif index.write():
        print("params.yaml: brought in line with recipes/")


def _calibration(options: argparse.Namespace) -> None:
    from pipeline.source import prompt_file

    prompt_file.add(options.file, options.name, options.field, options.licence)


def _quantizers(options: argparse.Namespace) -> None:
    from pipeline.quantizers import listing

    listing.show(options.markdown)


def _schema(options: argparse.Namespace) -> None:
    from pipeline import recipe

    print(recipe.schema(), end="")


if __name__ == "__main__":
    sys.exit(main())
