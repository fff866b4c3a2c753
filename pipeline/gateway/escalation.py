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
    choices = answer.get("choices") or [{}]
    return next(
        (rule for rule in rules if any(_holds(rule, request, one) for one in choices)), None
    )


def text_of(choice: Mapping[str, Any]) -> str:
    """Of a whole answer or a chunk, in both endpoints."""
    message = choice.get("message") or choice.get("delta") or {}
    return choice.get("text") or message.get("content") or ""


def calls_tools(choice: Mapping[str, Any]) -> bool:
    """Which is an answer without a text."""
    return bool((choice.get("message") or choice.get("delta") or {}).get("tool_calls"))


def _holds(rule: Escalation, request: Mapping[str, Any], choice: Mapping[str, Any]) -> bool:
    text = text_of(choice)
    match rule:
        case "empty":
            return not text.strip() and not calls_tools(choice)
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
