"""References within a JSON schema, as the grammar compiler follows them: it reads no escapes, and
takes what it does not find for any value, or for the end of everything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]
Place = tuple[str, ...]

LOCAL = re.compile(r"#(/[^/~%]+)*")
SUPPORTED = "references to a schema in this one, as #/$defs/NAME or #"


def target(root: Schema, reference: str) -> tuple[Place, Any] | None:
    """The place and what is there, if the compiler finds it."""
    names, found = tuple(reference.split("/")[1:]), root
    for name in names:
        found = found.get(name, {}) if isinstance(found, dict) else {}
    exists = isinstance(found, bool) or found or reference == "#"
    return (names, found) if LOCAL.fullmatch(reference) and exists else None


def returns(root: Schema, schema: Schema) -> bool:
    """Whether it is reached from itself with nothing between: the compiler takes that for any
    value."""
    seen, ahead = set[int](), _at_once(root, schema)
    while ahead:
        at = ahead.pop()
        if at is schema:
            return True
        if id(at) not in seen:
            seen.add(id(at))
            ahead += _at_once(root, at)
    return False


def _at_once(root: Schema, schema: Any) -> list[Any]:
    if not isinstance(schema, dict):
        return []
    if "$ref" in schema:
        found = target(root, schema["$ref"])
        return [found[1]] if found else []
    return [one for name in ("anyOf", "oneOf", "allOf") for one in schema.get(name, [])]


def resolved(root: Schema, schema: Any) -> Any:
    """What a chain of references ends at."""
    passed = set[int]()
    while isinstance(schema, dict) and "$ref" in schema and id(schema) not in passed:
        passed.add(id(schema))
        found = target(root, schema["$ref"])
        schema = found[1] if found else True
    return schema
