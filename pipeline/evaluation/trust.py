"""What of a local task would run code: said before lm-eval reads it, unless the recipe says
`task_code: true`.

lm-eval's own tasks are as trusted as its package. A YAML file of anybody else can name Python
functions (`!function`), a metric that is fetched as a script, a pickle as data set, or prompts of
another file; its templates are rendered in a sandbox (catalogue)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline import reading
from pipeline.errors import RecipeError
from pipeline.evaluation.catalogue import Config, Leaf
from pipeline.recipe import Evaluate
from pipeline.records import artifact

UNSAFE_DATA = ("pandas",)  # reads pickles


def require(task: str, evaluate: Evaluate, leaf: Leaf) -> None:
    """Raises RecipeError if a local task would run code that the recipe does not allow, or a
    package for a task is missing."""
    local = [path for path in leaf.files if not _is_own(path)]
    problems = [problem for path in local for problem in _named(path)] + (
        _other(leaf.config) if local else []
    )
    if problems and not evaluate.task_code:
        raise RecipeError(
            f"evaluate.tasks.{task}: {problems[0]}. A local task runs no code unless the recipe"
            " says"
            " so: look at it, and set evaluate.task_code: true"
        )
    if missing := _missing(leaf):
        raise RecipeError(
            f"evaluate.tasks.{task}: {leaf.name} needs the Python package {missing}, which is not"
            " installed."
        )


def code(evaluate: Evaluate) -> dict[str, str]:
    """SHA-256 of each Python file below `task_path`, where the recipe lets such files run."""
    if evaluate.task_path is None or not evaluate.task_code:
        return {}
    folder = Path(evaluate.task_path)
    return {
        name: artifact.hash_file(folder / name, name).sha256
        for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    }


def _is_own(path: Path) -> bool:
    import lm_eval.tasks

    return path.resolve().is_relative_to(Path(lm_eval.tasks.__file__).resolve().parent)


def _named(path: Path, seen: tuple[Path, ...] = ()) -> Iterator[str]:
    """Every tag in a YAML file, and in those that it includes, which is not plain data."""
    import yaml
    from lm_eval.tasks._yaml_loader import _Base  # the very parser that lm-eval reads it with

    path = path.resolve()
    if path in seen or _is_own(path):
        return
    try:
        root = yaml.compose(reading.text(path, RecipeError, reading.MOST_YAML_BYTES), Loader=_Base)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    for node in _nodes(root):
        if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
            yield f"{path}:{node.start_mark.line + 1}: {node.tag} {str(node.value)[:80]}"
    for other in _includes(root):
        yield from _named(path.parent / other, (*seen, path))


def _nodes(root: Any) -> list[Any]:
    """Each node once, aliases or not."""
    nodes: dict[int, Any] = {}
    waiting = [root] if root is not None else []
    while waiting:
        node = waiting.pop()
        if id(node) in nodes:
            continue
        nodes[id(node)] = node
        if not isinstance(node.value, str):
            waiting += [
                part
                for item in node.value
                for part in (item if isinstance(item, tuple) else (item,))
            ]
    return list(nodes.values())


def _includes(root: Any) -> list[str]:
    values = (
        [value for key, value in getattr(root, "value", []) if key.value == "include"]
        if root is not None
        else []
    )
    return [
        str(part.value)
        for value in values
        for part in (value.value if isinstance(value.value, list) else [value])
    ]


def _other(config: Config) -> list[str]:
    """Ways to code that are no function."""
    from lm_eval.api import metrics  # noqa: F401  (registers them)
    from lm_eval.api.registry import metric_registry

    name, problems = config["task"], []
    data = str(config.get("dataset_path") or "")
    if data in UNSAFE_DATA or data.endswith(".py"):
        problems.append(f"{name} has dataset_path {data}, which runs code to read its data")
    if config.get("use_prompt"):
        problems.append(f"{name} takes its prompts from {config['use_prompt']} (use_prompt)")
    for metric in config.get("metric_list") or []:
        known = config.get("process_results") or metric.get("metric") in metric_registry
        if metric.get("hf_evaluate") or not known:
            problems.append(
                f"{name} has the metric {metric.get('metric')}, none of lm-eval's: it would be"
                " fetched as a script"
            )
    return problems


def _missing(leaf: Leaf) -> str | None:
    """A package that the task's functions import and nobody installed, by the text of their
    files."""
    modules = {_file(value) for value in _functions(leaf.config)}
    return next(
        (name for path in sorted(filter(None, modules)) for name in _absent(path, set())), None
    )


def _functions(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _functions(part)
    elif (
        isinstance(value, str) and value.startswith("/") and "\n" not in value and len(value) < 1000
    ):
        yield value


def _file(function: str) -> Path | None:
    folder, _, dotted = function.rpartition("/")
    path = Path(folder, *dotted.split(".")[:-1]).with_suffix(".py")
    return path if path.is_file() else None


def _absent(path: Path, seen: set[Path]) -> Iterator[str]:
    """Packages that a file imports at its top, and files of lm-eval's tasks that it imports, which
    are not there."""
    if path in seen:
        return
    seen.add(path)
    for node in ast.parse(path.read_bytes()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.startswith("lm_eval.tasks."):
                other = _inside(name)
                yield from _absent(other, seen) if other else ()
            elif (
                find_spec(name.partition(".")[0]) is None
                and not (path.parent / f"{name.partition('.')[0]}.py").is_file()
            ):
                yield name.partition(".")[0]


def _inside(module: str) -> Path | None:
    import lm_eval.tasks

    path = Path(lm_eval.tasks.__file__).parent.joinpath(*module.split(".")[2:]).with_suffix(".py")
    return path if path.is_file() else None
