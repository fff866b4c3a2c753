"""Whether a cheaper tier's answer is enough, by the rules of deploy.yaml."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema

from pipeline.gateway.deploy_file import Escalation

CUT = "length"  # OpenAI's finish_reason


def broken(
    rules: Sequence[Escalation], request: Mapping[str, Any], answer: Mapping[str, Any]
) -> Escalation | None:
    """The first of the rules by which a whole answer is not enough."""
    choices = choices_of(answer)
    for rule in rules:
        if any(_holds(rule, request, choice) for choice in choices):
            return rule
    return None


def choices_of(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of a whole answer or a chunk, in both endpoints."""
    choices = answer.get("choices")
    given = choices if isinstance(choices, list) else []
    return [choice for choice in given if isinstance(choice, dict)]


def says_something(choice: Mapping[str, Any]) -> bool:
    """A text, or a call of a tool, which is an answer without one."""
    return bool(_text(choice) or _message(choice).get("tool_calls"))


def _message(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    message = choice.get("message") or choice.get("delta")
    return message if isinstance(message, dict) else {}


def _text(choice: Mapping[str, Any]) -> str:
    text = choice.get("text") or _message(choice).get("content")
    return text if isinstance(text, str) else ""


def _holds(rule: Escalation, request: Mapping[str, Any], choice: Mapping[str, Any]) -> bool:
    text = _text(choice)
    match rule:
        case "empty":
            return not text.strip() and not _message(choice).get("tool_calls")
        case "cut":
            return choice.get("finish_reason") == CUT
        case "schema":
            return not _fits(text, request.get("response_format"))


def _fits(text: str, asked: Any) -> bool:
    """Whether a text is what response_format asks for; yes where it asks for nothing."""
    kind = asked.get("type") if isinstance(asked, dict) else None
    if kind not in ("json_object", "json_schema"):
        return True
    try:
        value = json.loads(text)
        if kind == "json_object":
            return isinstance(value, dict)
        schema = asked["json_schema"]["schema"]
        return bool(jsonschema.validators.validator_for(schema)(schema).is_valid(value))
    except (ValueError, RecursionError):
        return False
    except (KeyError, TypeError, jsonschema.exceptions.SchemaError):
        return True  # no such schema: the server's business, and no other tier's
