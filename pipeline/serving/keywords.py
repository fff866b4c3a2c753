"""What is kept of one JSON schema while decoding, the schemas within it aside.

At others the grammar compiler of OpenVINO GenAI (xgrammar) ends all requests of its batch, or
ignores a part. These tables are what it was seen to keep."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

from pipeline.serving import patterns
from pipeline.serving.references import Place, Schema

READ = jsonschema.Draft202012Validator
NOTES = frozenset(
    "$schema $comment $defs definitions title description default examples deprecated readOnly"
    " writeOnly discriminator".split()
)
# The first of these decides; beside it no more than this is kept.
DECIDING = {"$ref": "", "const": "type", "enum": "type", "anyOf": "", "oneOf": "", "allOf": ""}
OF_TYPE = {
    "object": "properties required additionalProperties unevaluatedProperties minProperties"
    " maxProperties",
    "array": "items prefixItems unevaluatedItems minItems maxItems",
    "string": "minLength maxLength pattern format",
    "integer": "minimum maximum exclusiveMinimum exclusiveMaximum",
    "number": "minimum",
    "boolean": "",
    "null": "",
}
FORMATS = "email date time date-time duration ipv4 ipv6 hostname uuid uri uri-reference".split()
OPEN_OBJECT = ("additionalProperties", "unevaluatedProperties")
OPEN_ARRAY = ("items", "unevaluatedItems")
# While a grammar is read slowly, all requests wait.
LONGEST = {"minLength": 128, "maxLength": 256}
ENDLESS = 1 << 62
LOWEST, HIGHEST = -99, 100  # other ranges let through what is outside them


class Unsupported(Exception):
    """Says the place in the schema, what was found there, and what is supported."""

    def __init__(self, place: Place, found: str, supported: str) -> None:
        where = "/".join(["#", *place])
        super().__init__(f"{where[:200]}: found {found[:200]}, supported: {supported}")


def types(schema: Schema) -> list[str]:
    """By name, or as the compiler guesses them; none: any value."""
    if "type" in schema:
        return [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    guesses = {"object": ("properties", *OPEN_OBJECT), "array": ("prefixItems", *OPEN_ARRAY)}
    return [kind for kind, names in guesses.items() if schema.keys() & {*names}][:1]


def _kept(place: Place, schema: Schema) -> None:
    deciding = next((name for name in DECIDING if name in schema), None)
    kept = [DECIDING[deciding]] if deciding else [OF_TYPE[kind] for kind in types(schema)]
    beside = " ".join(kept).split()
    known = {*NOTES, *beside, deciding or "type", *([] if place else ["$id"])}
    if other := sorted(schema.keys() - known):
        form = deciding or f"type {' or '.join(types(schema)) or '(none)'}"
        supported = f"beside {form}: {', '.join(beside) or 'no more'}"
        raise Unsupported(place, json.dumps(other[0]), supported)


def _values(place: Place, schema: Schema) -> None:
    if "enum" in schema and not schema["enum"]:
        raise Unsupported(place, "an empty enum", "one value and more")
    kinds = types(schema)
    for value in given(schema) if "type" in schema else []:
        if not any(READ.TYPE_CHECKER.is_type(value, kind) for kind in kinds):
            raise Unsupported(place, f"{json.dumps(value)} as {kinds}", "values of the type")


def given(schema: Schema) -> list[Any]:
    return [schema["const"]] if "const" in schema else list(schema.get("enum", []))


def _count(place: Place, schema: Schema, name: str, otherwise: int) -> int:
    found = schema.get(name, otherwise)
    if not isinstance(found, int):
        raise Unsupported(place, f"{name} {found}", "an integer written without a point")
    return found


def _between(place: Place, schema: Schema, least: str, most: str, low: int, high: int) -> None:
    """`low`: what most must reach; `high`: what least must not pass."""
    least_of, most_of = _count(place, schema, least, 0), _count(place, schema, most, ENDLESS)
    if least_of > min(most_of, high) or most_of < low:
        found = ", ".join(f"{name} {schema[name]}" for name in (least, most) if name in schema)
        bounds = f"{least} up to {min(most_of, high)}, {most} from {max(least_of, low)}"
        raise Unsupported(place, found, bounds)


def _object(place: Place, schema: Schema) -> None:
    names = schema.get("properties", {})
    if missing := sorted({*schema.get("required", [])} - names.keys()):
        raise Unsupported(place, f"required {missing[0]!r}", "those that properties has")
    if strange := [name for name in names if json.dumps(name, ensure_ascii=False) != f'"{name}"']:
        escaped = "names without quotation marks, backslashes and control characters"
        raise Unsupported(place, repr(strange[0]), escaped)
    needed = len(schema.get("required", []))
    _between(place, schema, "minProperties", "maxProperties", needed, len(names))


def _array(place: Place, schema: Schema) -> None:
    first, more = len(schema.get("prefixItems", [])), any(schema.get(name) for name in OPEN_ARRAY)
    more = more or any(schema.get(name) == {} for name in OPEN_ARRAY)
    _between(place, schema, "minItems", "maxItems", first, ENDLESS if more else first)


def _string(place: Place, schema: Schema) -> None:
    rules = [name for name in OF_TYPE["string"].split() if name in schema]
    if len(rules) > 1 and rules != ["minLength", "maxLength"]:
        raise Unsupported(place, " with ".join(rules), "one of pattern, format and lengths")
    if "format" in schema and schema["format"] not in FORMATS:
        raise Unsupported(place, f"format {schema['format']!r}", ", ".join(FORMATS))
    if fault := patterns.fault(schema.get("pattern", "")):
        raise Unsupported((*place, "pattern"), fault, patterns.SUPPORTED)
    for name, largest in LONGEST.items():
        if (found := _count(place, schema, name, 0)) > largest:
            raise Unsupported(place, f"{name} {found}", f"{name} up to {largest}")
    _between(place, schema, "minLength", "maxLength", 0, ENDLESS)


def _numbers(place: Place, schema: Schema) -> None:
    kinds = types(schema)
    if "number" in kinds and schema.get("minimum", 0) != 0:
        raise Unsupported(place, f"minimum {schema['minimum']} of a number", "minimum 0, no other")
    if "integer" not in kinds:
        return
    bounds = {name: schema[name] for name in OF_TYPE["integer"].split() if name in schema}
    low = [
        bounds[name] + n for name, n in (("minimum", 0), ("exclusiveMinimum", 1)) if name in bounds
    ]
    high = [
        bounds[name] - n for name, n in (("maximum", 0), ("exclusiveMaximum", 1)) if name in bounds
    ]
    least, most = max(low, default=min([0, *high])), min(high, default=max([0, *low]))
    in_range = not high or (LOWEST if low else 0) <= least <= most <= HIGHEST
    above = bool(high) or 0 <= least < ENDLESS
    if not (in_range and above) or any(bound != int(bound) for bound in bounds.values()):
        supported = f"integers from {LOWEST} to {HIGHEST}, a minimum alone from 0, or an enum"
        raise Unsupported(place, json.dumps(bounds), supported)


RULES = (_kept, _values, _object, _array, _string, _numbers)
