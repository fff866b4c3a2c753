"""Which JSON schemas are taken, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.serving import schemas
from pipeline.serving.keywords import Unsupported

YES: dict[str, Any] = {"type": "boolean"}


def of(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


def text(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


# What users send, and how the official clients and pydantic write it.
KEPT: dict[str, dict[str, Any]] = {
    "anything": {},
    "object": of(a=YES, b={"type": "null"}),
    "nested": of(a=of(b=of(c={"enum": [1, "x", None]}))),
    "optional": {"type": "object", "properties": {"a": YES, "b": YES}},
    "named": {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x", **YES},
    "notes": {**YES, "title": "t", "description": "d", "default": True, "examples": [True]},
    "open": {"type": "object", "additionalProperties": YES, "maxProperties": 2},
    "counted": {
        "type": "object",
        "properties": {"a": YES, "b": YES, "c": YES},
        "minProperties": 1,
        "maxProperties": 2,
        "additionalProperties": False,
    },
    "array": {"type": "array", "items": YES, "minItems": 1, "maxItems": 3},
    "tuple": {"type": "array", "prefixItems": [YES, {"const": "x"}], "items": False, "minItems": 2},
    "empty": {"type": "array", "maxItems": 0, "items": YES},
    "enum": {"type": "string", "enum": ["yes", "no", 'a"b', "\n"]},
    "const": {"const": {"a": [1, None]}},
    "union": {"anyOf": [{"enum": [1, 2]}, {"type": "null"}]},
    "types": {"type": ["integer", "null"], "minimum": 0},
    "whole": {"type": "integer", "minimum": 1, "maximum": 5},
    "score": {"type": "integer", "minimum": 0, "maximum": 100},
    "between": {"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 3},
    "large": {"type": "integer", "minimum": 1900},
    "price": {"type": "number", "minimum": 0},
    "code": text("^[A-Z]{2}-\\d{4}$"),
    "slug": text("^[a-z0-9]+(-[a-z0-9]+){0,3}$"),
    "choice": text("^(?:[01]\\d|2[0-3]):[0-5]\\d$"),
    "class": text("[\\w.\\-+]{1,8}@[a-z]{1,8}\\.(com|org)"),
    "letters": text("^[à-ü \\u4e00-\\u9fff]{1,3}$"),
    "no quotes": text('^[^"\\\\\\x00-\\x1f]{1,9}$'),
    "short": {"type": "string", "minLength": 1, "maxLength": 9},
    "uuid": {"type": "string", "format": "uuid"},
    "definitions": {"$defs": {"n": of(a=YES)}, "type": "array", "items": {"$ref": "#/$defs/n"}},
    "older": {"definitions": {"n": YES}, **of(a={"$ref": "#/definitions/n", "description": "d"})},
    "pydantic 1": {"definitions": {"n": YES}, **of(a={"allOf": [{"$ref": "#/definitions/n"}]})},
    "recursion": of(v=YES, next={"anyOf": [{"$ref": "#"}, {"type": "null"}]}),
    "mutual": {
        "$defs": {
            "a": {"anyOf": [{"$ref": "#/$defs/b"}, {"type": "null"}]},
            "b": of(a={"$ref": "#/$defs/a"}),
        },
        "$ref": "#/$defs/a",
    },
    "tagged": {
        "$defs": {"a": of(k={"const": "a"}), "b": of(k={"const": "b"}, x=YES)},
        "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        "discriminator": {"propertyName": "k", "mapping": {"a": "#/$defs/a", "b": "#/$defs/b"}},
    },
    "unused": {"$defs": {"n": {"type": "integer", "minimum": 5, "maximum": 1}}, **YES},
}
# Schemas, with the place and what is found there.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nowhere": ({"$ref": "#/nowhere"}, "#: found $ref '#/nowhere'"),
    "remote": ({"$ref": "http://x/y"}, "#: found $ref 'http://x/y'"),
    "escaped": ({"$defs": {"a/b": YES}, "$ref": "#/$defs/a~1b"}, "#: found $ref"),
    "by number": ({"anyOf": [YES, {"$ref": "#/anyOf/0"}]}, "#/anyOf/1: found $ref"),
    "itself": ({"$ref": "#"}, "#: found $ref '#'"),
    "circle": (
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, YES]}}, "$ref": "#/$defs/a"},
        "#/$defs/a/anyOf/0: found $ref",
    ),
    "beside a reference": ({"$defs": {"n": YES}, "$ref": "#/$defs/n", "enum": [1]}, '"enum"'),
    "a note's": ({"default": {"type": "foo"}, **of(a={"$ref": "#/default"})}, "#/default/type"),
    "type": (of(a={"type": "foo"}), "#/properties/a/type: found 'foo'"),
    "properties": ({"type": "object", "properties": 7}, "#/properties: found 7"),
    "false": (of(a=False), "#/properties/a: found false"),
    "empty enum": ({"enum": []}, "#: found an empty enum"),
    "other type": ({"type": "string", "enum": [1, "b"]}, "#: found 1"),
    "contradiction": ({"type": "integer", "minimum": 5, "maximum": 1}, '"minimum": 5'),
    "none between": ({"type": "integer", "exclusiveMinimum": 3, "maximum": 3}, "#: found"),
    "fraction": ({"type": "integer", "minimum": 0.5}, "#: found"),
    "wide": ({"type": "integer", "minimum": 0, "maximum": 120}, '"maximum": 120'),
    "below": ({"type": "integer", "minimum": -5}, '"minimum": -5'),
    "negative": ({"type": "integer", "maximum": -5}, '"maximum": -5'),
    "probability": ({"type": "number", "minimum": 0, "maximum": 1}, '"maximum"'),
    "number from": ({"type": "number", "minimum": 5}, "minimum 5"),
    "items": (
        {"type": "array", "items": YES, "minItems": 5, "maxItems": 2},
        "#: found minItems 5, maxItems 2",
    ),
    "no more": ({"type": "array", "prefixItems": [YES], "items": False, "minItems": 2}, "minItems"),
    "no items": ({"type": "array", "minItems": 2}, "minItems 2"),
    "cut": ({"type": "array", "prefixItems": [YES, YES], "maxItems": 1}, "maxItems 1"),
    "point": ({"type": "array", "items": YES, "minItems": 2.0}, "minItems 2.0"),
    "lengths": ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength 5"),
    "long": ({"type": "string", "maxLength": 1000}, "maxLength 1000"),
    "undeclared": ({"type": "object", "properties": {"a": YES}, "required": ["b"]}, "'b'"),
    "quoted": (of(**{'a"b': YES}), "#: found 'a\"b'"),
    "too few": (of(a=YES, b=YES) | {"maxProperties": 1}, "maxProperties 1"),
    "others": ({"type": "object", "additionalProperties": YES, "minProperties": 2}, "minProp"),
    "format": ({"type": "string", "format": "iri"}, "format 'iri'"),
    "two rules": ({**text("a"), "maxLength": 2}, "maxLength with pattern"),
    "several": ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "#: found allOf"),
    "overlap": ({"oneOf": [{"enum": [1, 2]}, {"enum": [2, 3]}]}, "#: found oneOf"),
    "beside options": ({"type": "string", "anyOf": [{"enum": ["x", 3]}]}, '"type"'),
    "without type": ({"minLength": 5}, '"minLength"'),
    "anchor": ({"$anchor": "x"}, '"$anchor"'),
    "misspelt": ({"type": "string", "maxlength": 5}, '"maxlength"'),
    "infinite": ({"enum": [float("inf")]}, "#: found what"),
    "half": ({"enum": ["\ud800"]}, "#: found what"),
    "many options": ({"oneOf": [{"const": n} for n in range(33)]}, "oneOf of 33"),
    "large": ({"enum": ["a" * 70_000]}, "#: found a schema of 70"),
    "deep": ({"default": eval("[" * 70 + "]" * 70)}, "#: found a schema of"),
    **{
        name: ({**YES, name: value}, f'"{name}"')
        for name, value in {
            "not": {"const": True},
            "if": {},
            "then": {},
            "dependentRequired": {},
            "dependentSchemas": {},
            "patternProperties": {},
            "propertyNames": {},
            "uniqueItems": True,
            "contains": {},
            "multipleOf": 7,
            "$dynamicRef": "#n",
        }.items()
    },
    **{
        f"pattern {pattern}": (text(pattern), "#/pattern: found")
        for pattern in (
            *("(", "(?=a)b", "(?!a)b", "(?<=a)b", "(?P<n>a)", "(?i)a", "(?>a)", "(?#x)a"),
            *("(a)\\1", "\\bfoo", "\\p{L}", "\\Z", "\\cA", "\\n", "\\s", "\\D", ".", "[^a]"),
            *("[ -~]", "[A-z]", '"', "\\\\", "[\\^a]", "[^é]", "[[:alpha:]]", "[]a]"),
            *("a|b", "^a$|^b$", "(^a|b)", "a^b", "(|a)", "()", "a++", "a{,3}", "{a}", "a{2}{3}"),
            *("([a-z]*)*x", "a{1000}", "a{99999999999}", "(" * 600 + ")" * 600, "a" * 600),
        )
    },
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_is_taken(name: str) -> None:
    schemas.check(KEPT[name])


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_not_be_kept_is_refused(name: str) -> None:
    schema, found = REFUSED[name]
    with pytest.raises(Unsupported) as refused:
        schemas.check(schema)
    said = str(refused.value)
    assert found in said and ", supported: " in said and len(said) < 800
