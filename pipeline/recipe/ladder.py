"""A variant as a ladder: several ways to quantize, of which the first that passes the gate is
shipped.

    ladder: [int4 g128, int4 g64, int4 g64 ratio 0.8, int4 g64 awq+se, int8]
    ladder: auto

A rung is a mapping of a variant's own keys, or a line of words: the weights (int4 if unsaid), g and
the group size, `sym`, `asym`, `se` (scale_estimation), the name of a quantizer or of a setting that
is on or off, and other keys followed by their value. What the variant itself says holds for every
rung."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

from pydantic import ValidationError

from pipeline.capabilities import ENGINES
from pipeline.recipe.base import Weights
from pipeline.recipe.parsing import describe
from pipeline.recipe.variant import Variant

WORDS: dict[str, tuple[str, Any]] = {
    "se": ("scale_estimation", True),
    "sym": ("symmetric", True),
    "asym": ("symmetric", False),
}
SWITCHES = [
    name for name, field in Variant.model_fields.items() if bool in get_args(field.annotation)
]
FIXED = {"engine", "target", "ladder", "goal"}
BITS = {"bf16": 16, "int8": 8, "int4": 4, "nf4": 4, "mxfp4": 4, "fp8": 8, "int2": 2}
SCALE_BITS = {"int4": 16, "nf4": 16, "mxfp4": 8}  # of a group
ZERO_POINT_BITS = 4


def rungs(variant: Variant) -> list[Variant]:
    """The ways to make a variant, in the order in which they are tried; one for a variant that is
    no ladder.

    Raises ValueError naming the rung.
    """
    if variant.ladder is None:
        return [variant]
    common = variant.model_dump(exclude={"ladder", "goal"}, exclude_unset=True)
    steps: list[Any] = _auto(variant) if variant.ladder == "auto" else list(variant.ladder)
    made = [_rung(step, common, variant.engine, number) for number, step in enumerate(steps, 1)]
    return sorted(made, key=bits_per_weight) if variant.goal == "smallest" else made


def _auto(variant: Variant) -> list[str]:
    engine = variant.served_by
    return [*engine.ladder, *(engine.faster if variant.goal == "fastest" else ())]


def _rung(step: str | dict[str, Any], common: dict[str, Any], engine: str, number: int) -> Variant:
    rung = f"ladder: rung {number}, {step!r}"
    own = _words(step, engine, rung) if isinstance(step, str) else step
    if fixed := sorted(FIXED & own.keys()):
        raise ValueError(f"{rung}: {fixed[0]} is the same for all rungs. Give it beside the ladder")
    asked = {"quantizer": ENGINES[engine].quantizer, "weights": "int4", **common, **own}
    if asked["quantizer"] is None:
        raise ValueError(
            f"{rung}: quantizer: missing, which {engine!r} has no usual one of. Name one, such as"
            " awq or gptq"
        )
    try:
        return Variant.model_validate(asked)
    except ValidationError as error:
        raise ValueError(describe(rung, Variant, error.errors()[0])) from error


def _words(line: str, engine: str, rung: str) -> dict[str, Any]:
    """Raises ValueError for a key that has two values."""
    settings: dict[str, Any] = {}
    words = re.split(r"[\s+]+", line.strip())
    while words:
        key, value = _word(words, engine)
        if key in settings:
            hint = (
                " Another method of a quantizer is a key: method gptq" if key == "quantizer" else ""
            )
            raise ValueError(
                f"{rung}: {key}: found {settings[key]!r} and {value!r}, expected one.{hint}"
            )
        settings[key] = value
    return settings


def _word(words: list[str], engine: str) -> tuple[str, Any]:
    """Takes a key and its value from the front. What no variant has is taken for a quantizer's
    name, which is checked later."""
    word = words.pop(0)
    key, value = WORDS.get(word, ("quantizer", word))
    if word in get_args(Weights):
        key = "weights"
    elif size := re.fullmatch(r"g(-?\d+)", word):
        key, value = "group_size", int(size[1])
    elif word in SWITCHES and word not in ENGINES[engine].own_words:
        key, value = word, True
    elif word in Variant.model_fields and words and word not in ENGINES[engine].own_words:
        key, value = word, _value(words.pop(0))
    return key, value


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word


def bits_per_weight(variant: Variant) -> float:
    """Of the quantized layers, with their scales and zero-points: an estimate that orders rungs by
    size before they are made."""
    low = float(BITS[variant.weights])
    if variant.weights in SCALE_BITS and variant.groups_of > 0:
        zero_point = ZERO_POINT_BITS if variant.weights == "int4" and not variant.symmetric else 0
        low += (SCALE_BITS[variant.weights] + zero_point) / variant.groups_of
    share = 1.0 if variant.ratio is None else variant.ratio
    return share * low + (1 - share) * (BITS["bf16"] if variant.backup == "none" else BITS["int8"])


def words(variant: Variant) -> str:
    """A rung as a line, for tables and the terminal."""
    parts: list[str] = [variant.quantizer or "", variant.weights]
    for key, value in variant.settings().items():
        if key == "group_size":
            parts.append(f"g{value}")
        elif value is True:
            parts.append("se" if key == "scale_estimation" else key)
        else:
            parts.append(f"{key} {str(value).lower() if isinstance(value, bool) else value}")
    return " ".join(parts)
