"""Which lm-eval tasks stand behind a name, and what their YAML files say of them. Nothing of a task
is run or loaded here."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import RecipeError
from pipeline.recipe import Evaluate

Config = dict[str, Any]


class Leaf(NamedTuple):
    """One task; `config` is as its YAML files say it, functions as PATH.NAME, and `files` are those
    files, its groups' first."""

    name: str
    config: Config
    files: tuple[Path, ...]


def manager(evaluate: Evaluate) -> Any:
    """lm-eval's index of tasks: the local ones alone if they are all that is asked for, since
    reading its own takes long.

    Templates of tasks are rendered in Jinja's sandbox from here on: lm-eval's own environment lets
    them call anything."""
    from lm_eval import utils
    from lm_eval.tasks import TaskManager

    utils.env = _sandbox(utils.env)
    if evaluate.task_path is not None:
        local = TaskManager(include_path=evaluate.task_path, include_defaults=False)
        if set(evaluate.tasks) <= set(local.all_tasks):
            return local
    return TaskManager(include_path=evaluate.task_path)


def _sandbox(environment: Any) -> Any:
    from jinja2.sandbox import SandboxedEnvironment

    made = SandboxedEnvironment(
        loader=environment.loader,
        undefined=environment.undefined,
        keep_trailing_newline=environment.keep_trailing_newline,
    )
    made.filters.update(environment.filters)
    return made


def by_task(index: dict[str, Any], evaluate: Evaluate) -> dict[str, list[Leaf]]:
    """The tasks behind each name of the recipe. Raises RecipeError for an unknown name, and for a
    task that two names hold."""
    leaves_by_task = {name: leaves(index, name, evaluate) for name in evaluate.tasks}
    seen: dict[str, str] = {}
    for name, group in leaves_by_task.items():
        for leaf in group:
            if leaf.name in seen:
                raise RecipeError(
                    f"evaluate.tasks.{name}: {leaf.name} is a part of {seen[leaf.name]!r} too: it"
                    " would count twice. Leave one out."
                )
            seen[leaf.name] = name
    return leaves_by_task


def leaves(index: dict[str, Any], name: str, evaluate: Evaluate) -> list[Leaf]:
    if name not in index:
        raise _unknown(index, name, evaluate)
    try:
        members = _behind(index, name, {}, ())
    except RecursionError as error:
        raise RecipeError(
            f"evaluate.tasks.{name}: a group of tasks that holds itself. Mend its YAML file."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # a YAML file says anything
        raise RecipeError(
            f"evaluate.tasks.{name}: {index[name].yaml_path} is no group of tasks for lm-eval"
            f" ({type(error).__name__}: {error})."
        ) from error
    if not members:
        raise RecipeError(f"evaluate.tasks.{name}: a group without tasks. Name tasks.")
    return members


def data_sets(index: dict[str, Any], name: str) -> list[str]:
    """What the tasks behind a known name read: data sets of the hub, or formats of local files."""
    paths = {leaf.config.get("dataset_path") for leaf in _behind(index, name, {}, ())}
    return sorted(str(path) for path in paths if path)


def _behind(index: dict[str, Any], name: str, given: Config, files: tuple[Path, ...]) -> list[Leaf]:
    """As lm_eval.tasks._factory resolves a name; `given` is what the groups around it say in its
    place."""
    from lm_eval.tasks._index import Kind

    entry = index[name]
    if entry.kind is Kind.TAG:
        return [
            leaf for child in sorted(entry.tags) for leaf in _behind(index, child, given, files)
        ]
    files = (*files, entry.yaml_path)
    if entry.kind is Kind.GROUP:
        return _members(index, entry.cfg, given, files)
    return [Leaf(name, {**entry.cfg, **given, "task": name}, files)]


def _members(
    index: dict[str, Any], group: Config, given: Config, files: tuple[Path, ...]
) -> list[Leaf]:
    from lm_eval.tasks._factory import GROUP_FIELD_NAMES

    own = {key: value for key, value in group.items() if key not in GROUP_FIELD_NAMES} | given
    members: list[Leaf] = []
    for item in group.get("task") or []:
        entry = {"task": item} if isinstance(item, str) else item
        if "group" in entry and entry["group"] not in index:
            members += _members(index, entry, own, files)
            continue
        name = entry["group"] if "group" in entry else entry["task"]
        more = own | {key: value for key, value in entry.items() if key not in ("group", "task")}
        inline = Leaf(f"{group['group']}::{name}", more, files)
        members += _behind(index, name, more, files) if name in index else [inline]
    return members


def _unknown(index: dict[str, Any], name: str, evaluate: Evaluate) -> RecipeError:
    close = difflib.get_close_matches(name, index, 3)
    hint = (
        f"Did you mean {' or '.join(close)}?"
        if close
        else f"Known: {', '.join(sorted(index)[:10])}."
    )
    where = f"{evaluate.task_path} or " if evaluate.task_path else ""
    unread = _unread(Path(evaluate.task_path)) if evaluate.task_path else ""
    return RecipeError(
        f"evaluate.tasks: found {name!r}, no such task in {where}lm-eval's own tasks."
        f" {hint}{unread}"
    )


def _unread(folder: Path) -> str:
    """Which YAML files lm-eval passes over without a word, since it cannot read them."""
    from lm_eval.tasks._index import TaskIndex
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in sorted(folder.glob("**/*.yaml")):
        try:
            TaskIndex.process_cfg(load_yaml(path, resolve_func=False), path, {})
        except Exception as error:  # a YAML library raises what a file makes Python raise
            return (
                f" {path} cannot be read: {type(error).__name__}:"
                f" {' '.join(str(error).split())[:200]}."
            )
    return ""
