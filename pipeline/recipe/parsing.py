"""YAML -> a strict pydantic model, with errors that name file, key, value, expectation and the
nearest valid name."""

from __future__ import annotations

import contextlib
import difflib
import re
import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from pipeline import reading
from pipeline.errors import CheckpointError, RecipeError
from pipeline.recipe import defaults

PATTERNS = {
    "^[0-9a-f]{40}$": "40 hex digits, a commit",
    "^[0-9a-f]{64}$": "64 hex digits, a SHA-256",
    "^[A-Z]{3}$": "three capitals, a currency of ISO 4217",
}
EXPECTED = {
    "dict_type": "Expected keys with values",
    "model_type": "Expected keys with values",
    "invalid_key": "Expected a name as key: put a number in quotes",
    "int_parsing_size": "Expected a number of fewer digits",
}
OF_KEYS = ("model.", "evaluate.")
UNFILLED = ("missing", "too_short", "dict_type", "model_type", "list_type")
NAMED = ("variants", "tasks")  # the keys below them are names
LIKE_A_WORD = (
    0.7  # of words of three letters, two in common say nothing: gpu is not meant to be xpu
)
T = TypeVar("T", bound=BaseModel)
BRIEF = (
    reprlib.Repr()
)  # of a value found: cut while it is written, since a value can be of any size
BRIEF.maxstring = BRIEF.maxother = 80


def parse(path: Path, model: type[T]) -> T:
    """Reads YAML into the model. Raises RecipeError naming file, key, value and expectation."""
    data = reading.yaml(path, RecipeError)
    if data is None:
        raise RecipeError(
            f"{path}: empty. Expected the keys {', '.join(model.model_fields)}; a copy of another"
            " is a start."
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        errors = sorted(
            error.errors(), key=lambda item: item["type"] == "missing"
        )  # a misspelled key explains a missing one
        lines = [describe(path, model, item) for item in errors]
        raise RecipeError("\n".join(lines)) from error


def unknown(kind: str, name: str, where: Path, known: list[str]) -> RecipeError:
    return RecipeError(
        f"{where}: no {kind} {name!r}. Known: {', '.join(known)}.{nearest(name, known)}"
    )


@contextlib.contextmanager
def of_file(path: Path) -> Iterator[None]:
    """An error that begins with a key of the recipe, found where nobody knows its file, gets it."""
    try:
        yield
    except (CheckpointError, RecipeError) as error:
        if not str(error).startswith(OF_KEYS):
            raise
        raise type(error)(f"{path}: {error}") from error


def describe(within: Path | str, model: type[BaseModel], item: Any) -> str:
    """One of pydantic's errors as a sentence that begins with where it is: the file or part of it,
    and the key."""
    key = ".".join(str(part) for part in item["loc"] if not str(part).endswith("]"))
    where = f"{within}: {key}" if key else str(within)
    if item["type"] == "extra_forbidden":
        valid = _valid_keys(model, item["loc"][:-1])
        return (
            f"{where}: unknown key.{nearest(str(item['loc'][-1]), valid)} Valid here:"
            f" {', '.join(valid)}."
        )
    like = _like(item["loc"])
    if item["type"] == "missing":
        return f"{where}: missing. It is required{f', for instance {like}' if like else ''}."
    if item["type"] == "value_error":
        message = str(item["ctx"]["error"])
        return f"{where}: {message if message.endswith(('.', '?')) else f'{message}.'}"
    hint = ""
    if item["type"] == "literal_error":
        hint = nearest(str(item["input"]), re.findall(r"'([^']+)'", item["msg"]), LIKE_A_WORD)
    if item["type"] in ("less_than", "less_than_equal") and 1 < item["input"] <= 100:
        hint = f" A fraction is expected: {item['input'] / 100:g} for {item['input']:g} %."
    if (
        item["type"] == "dict_type"
        and key.startswith("gate.")
        and type(item["input"]) in (int, float)
    ):
        value = BRIEF.repr(item["input"])
        hint = (
            f" A limit for each precision is expected, for instance {{int8: {value}, int4:"
            f" {value}}}."
        )
    if item["type"] == "list_type" and isinstance(item["input"], str) and item["input"]:
        hint = f" As a list of one: [{item['input']}]."
    if like and not hint and (item["input"] is None or item["type"] in UNFILLED):
        hint = f" For instance {like}."
    return f"{where}: found {shown(item['input'])}. {_expected(item)}.{hint}"


def _like(loc: tuple[Any, ...]) -> str:
    """A recipe's key with a value that works, as YAML on one line; empty where none is known."""
    if loc and isinstance(loc[-1], int):  # an item of a list, which has no key
        return ""
    keys = [str(part) for part in loc if not str(part).endswith("]")]
    value: Any = defaults.EXAMPLE
    for above, key in zip(["", *keys], keys, strict=False):
        if isinstance(value, dict):
            value = next(iter(value.values())) if above in NAMED else value.get(key)
    return f"{keys[-1]}: {in_line(value)}" if keys and value is not None else ""


def in_line(value: Any) -> str:
    """Plain values as YAML on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {in_line(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(in_line, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def one_of_several(expected: str) -> WrapValidator:
    """Of a choice between types, which has an error for each of them: one that says what was
    expected."""

    def validate(given: Any, choice: ValidatorFunctionWrapHandler) -> Any:
        try:
            return choice(given)
        except ValidationError as error:
            raise ValueError(f"found {shown(given)}, expected {expected}") from error

    return WrapValidator(validate)


def shown(value: Any) -> str:
    """A value that was found, cut, with its type."""
    return "nothing" if value is None else f"{BRIEF.repr(value)[:80]} ({type(value).__name__})"


def _expected(item: Any) -> str:
    """What pydantic says in its own words (\"Dictionary should have at least 1 item after
    validation, not 0\"), as a user would."""
    context = item.get("ctx", {})
    match item["type"]:
        case "too_short":
            return f"Expected at least {context['min_length']} of them"
        case "too_long":
            return f"Expected at most {context['max_length']} of them"
        case "string_pattern_mismatch":
            return (
                f"Expected {PATTERNS.get(context['pattern'], 'a text like ' + context['pattern'])}"
            )
    return EXPECTED.get(item["type"]) or str(item["msg"]).replace("Input should be", "Expected")


def _valid_keys(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """Field names of the model that `loc` leads to; steps through dict keys and list indices."""
    current: type[BaseModel] = model
    for part in loc:
        field = current.model_fields.get(str(part))
        if field is None:
            continue
        current = next(_models(field.annotation), current)
    return list(current.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside a type such as `dict[str, Variant]` or `Slo | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def nearest(name: str, valid: Iterable[str], cutoff: float = 0.6) -> str:
    """A sentence that asks whether one of `valid` was meant; empty if none is near."""
    close = difflib.get_close_matches(name, valid, 1, cutoff)
    return f" Did you mean {close[0]!r}?" if close else ""
