"""What the table in pipeline/cli is made of: how a word becomes an argument, what a shell
completes, and a line of the table."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from pipeline import paths
from pipeline.errors import QuantgateError

CHECKOUT = "DVC removes a stage's earlier output before it runs it: dvc checkout brings that back."


class File(click.ParamType[Any]):
    """A word that a shell completes as a file, and what becomes of it."""

    name = "file"

    def __init__(self, given: Callable[[str], Any]) -> None:
        self._given = given

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._given(value) if isinstance(value, str) else value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


PATH = File(paths.given)
URL = File(lambda text: text if "://" in text else str(paths.given(text)))
KEY = File(lambda text: text if ":" in text.partition("=")[2] else str(paths.given(text)))


class RecipeName(click.ParamType[str]):
    name = "recipe"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return paths.recipe_name(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        if "/" in incomplete:
            return [CompletionItem(incomplete, type="file")]
        names = sorted(path.stem for path in paths.RECIPES.glob("*.yaml"))
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class VariantName(click.ParamType[str]):
    name = "variant"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from pipeline import recipe

        try:
            names = recipe.load(ctx.params["recipe"]).variants
        except QuantgateError:  # which the command itself says, once it is entered
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def option(*names: str, **more: Any) -> click.Option:
    return click.Option(names, **more)


def argument(name: str, metavar: str, help: str | None = None, **more: Any) -> click.Argument:
    return click.Argument([name], metavar=metavar, help=help, **more)


JSON = option("--json", "as_json", is_flag=True, help="print JSON")
CLUSTER = option(
    "--ray",
    metavar="local|ADDRESS",
    required=True,
    help="of a cluster, as `ray start --address` takes it; local: one of its own",
)
RECIPE = argument(
    "recipe",
    "RECIPE",
    "a file in recipes/, by its name (tiny) or its path (recipes/tiny.yaml)",
    type=RecipeName(),
)
VARIANT = argument("variant", "VARIANT", "name of a variant in the recipe", type=VariantName())
ANY_VARIANT = argument("variant", "[VARIANT]", "default all", type=VariantName(), required=False)


class Command(click.Command):
    """Calls `module:function` of this package, imported only now, with the arguments in their order
    and the options by name. `stopped` is what else is said after Ctrl-C."""

    stopped = ""

    def __init__(self, name: str, function: str, text: str, *params: click.Parameter) -> None:
        super().__init__(name, params=list(params), help=text, short_help=text)
        self.function = function

    def invoke(self, ctx: click.Context) -> None:
        try:
            self.work(ctx)
        except KeyboardInterrupt:  # click would print an empty line
            raise click.Abort(self.stopped) from None
        # whoever read has had enough; click would end with the code of what did not pass
        except BrokenPipeError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(2) from error

    def work(self, ctx: click.Context) -> None:
        module, _, function = self.function.partition(":")
        arguments = [
            ctx.params[str(param.name)]
            for param in self.params
            if isinstance(param, click.Argument)
        ]
        options = {
            str(param.name): ctx.params[str(param.name)]
            for param in self.params
            if isinstance(param, click.Option)
        }
        getattr(importlib.import_module(f"pipeline.{module}"), function)(*arguments, **options)


class Run(Command):
    """Runs stages."""

    stopped = CHECKOUT


class Stage(Command):
    """Works on one recipe, which params.yaml must hold as it is now."""

    stopped = CHECKOUT

    def invoke(self, ctx: click.Context) -> None:
        from pipeline.planning import index

        index.check(ctx.params["recipe"])
        super().invoke(ctx)


class Kept(Stage):
    """A stage whose result a store may have; not so with an option, which asks for something
    else."""

    def work(self, ctx: click.Context) -> None:
        options = [str(param.name) for param in self.params if isinstance(param, click.Option)]
        if any(ctx.params[name] for name in options) or not os.environ.get("QUANTGATE_STORE"):
            super().work(ctx)
            return
        from pipeline.store import kept

        variant = f"--{ctx.params['variant']}" if "variant" in ctx.params else ""
        name = f"{self.name}@{ctx.params['recipe']}{variant}"
        kept.run(name, lambda: super(Kept, self).work(ctx))


def group(name: str, text: str, *commands: click.Command) -> click.Group:
    return click.Group(
        name, commands=list(commands), help=text, short_help=text, no_args_is_help=False
    )


class Sections(click.Group):
    """A group that prints its commands in the order of the table, below headings."""

    def __init__(self, sections: dict[str, list[click.Command]], **more: Any) -> None:
        super().__init__(
            commands=[command for commands in sections.values() for command in commands], **more
        )
        self._sections = sections

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, commands in self._sections.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [(str(command.name), command.short_help or "") for command in commands]
                )
