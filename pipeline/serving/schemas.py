"""Whether a JSON schema is kept while decoding, as a whole."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import jsonschema

from pipeline.serving import references
from pipeline.serving.keywords import (
    OF_TYPE,
    OPEN_ARRAY,
    OPEN_OBJECT,
    READ,
    RULES,
    Unsupported,
    given,
    types,
)
from pipeline.serving.references import Place, Schema

NO_FORMATS = jsonschema.FormatChecker(formats=())  # of patterns it compiles any
# While a grammar is made, all requests wait.
LARGEST, DEEPEST, MOST_REFERENCES = 1 << 15, 64, 128
MOST_OPTIONS = 32  # each is held against each
APART = "options of other types, or with const or enum of their own in a required property"


def check(schema: Schema) -> None:
    """Raises Unsupported."""
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError:
        raise Unsupported((), "what UTF-8 or JSON's numbers do not hold", "JSON") from None
    if len(text) > LARGEST or text.count('"$ref"') > MOST_REFERENCES or _depth(text) > DEEPEST:
        limits = f"{LARGEST} characters, {DEEPEST} levels, {MOST_REFERENCES} references"
        raise Unsupported((), f"a schema of {len(text)} characters", f"up to {limits}")
    _read((), schema)
    _Walk(schema).visit((), schema)


def _read(place: Place, schema: Schema) -> None:
    try:
        READ.check_schema(schema, format_checker=NO_FORMATS)
    except jsonschema.SchemaError as error:
        at = (*place, *map(str, error.absolute_path))
        raise Unsupported(at, error.message, "what JSON Schema 2020-12 allows") from None


def _depth(text: str) -> int:
    """Brackets within texts count too, which does no harm."""
    return max(itertools.accumulate((c in "{[") - (c in "}]") for c in text))


class _Walk:
    """Over what can be reached, as the compiler goes: other definitions do no harm."""

    def __init__(self, root: Schema) -> None:
        self._root, self._seen = root, set[Place]()

    def visit(self, place: Place, schema: Any) -> None:
        if place in self._seen or schema is True:
            return
        self._seen.add(place)
        if schema is False:
            raise Unsupported(place, "false, which nothing satisfies", "a schema, or true")
        for rule in RULES:
            rule(place, schema)
        if "$ref" in schema:
            self._follow(place, schema)
        if len(schema.get("allOf", [])) > 1:
            raise Unsupported(place, "allOf of several", "allOf of one schema")
        if len(schema.get("oneOf", [])) > MOST_OPTIONS:
            many = f"oneOf of {len(schema['oneOf'])}"
            raise Unsupported(place, many, f"up to {MOST_OPTIONS}, or anyOf")
        marks = [_marks(self._root, one) for one in schema.get("oneOf", [])]
        if not all(_apart(*pair) for pair in itertools.combinations(marks, 2)):
            raise Unsupported(place, "oneOf of what may overlap", f"{APART}; else anyOf")
        for part, inner in _parts(schema):
            self.visit((*place, *part), inner)

    def _follow(self, place: Place, schema: Schema) -> None:
        found = references.target(self._root, schema["$ref"])
        if not found or references.returns(self._root, schema):
            raise Unsupported(place, f"$ref {schema['$ref']!r}", references.SUPPORTED)
        if found[0] not in self._seen:
            _read(*found)
        self.visit(*found)


def _parts(schema: Schema) -> Iterator[tuple[Place, Any]]:
    for name in ("prefixItems", "anyOf", "oneOf", "allOf"):
        yield from (((name, str(n)), one) for n, one in enumerate(schema.get(name, [])))
    yield from ((("properties", name), one) for name, one in schema.get("properties", {}).items())
    for name in (*OPEN_OBJECT, *OPEN_ARRAY):
        yield (name,), schema.get(name) or True  # false: no more of them


def _marks(root: Schema, option: Any) -> dict[str, set[str]]:
    """What sets an option apart from others: its types and values, and those of what it
    requires."""
    option = references.resolved(root, option)
    if not isinstance(option, dict):
        return {}
    marks = _own(option)
    for name in option.get("required", []):
        part = references.resolved(root, option.get("properties", {}).get(name))
        own = _own(part) if isinstance(part, dict) else {}
        marks |= {f"{name}/{mark}": found for mark, found in own.items()}
    return marks


def _own(schema: Schema) -> dict[str, set[str]]:
    values = given(schema)
    if values:
        return {"values": {json.dumps(value) for value in values}, "types": {*map(_kind, values)}}
    kinds = {"number" if kind == "integer" else kind for kind in types(schema)}
    return {"types": kinds} if kinds else {}


def _kind(value: Any) -> str:
    kinds = (kind for kind in OF_TYPE if kind != "integer")
    return next(kind for kind in kinds if READ.TYPE_CHECKER.is_type(value, kind))


def _apart(one: dict[str, set[str]], other: dict[str, set[str]]) -> bool:
    return any(not one[mark] & other[mark] for mark in one.keys() & other.keys())
