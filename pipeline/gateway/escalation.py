"""Whether a cheaper tier's answer is enough, by the rules of deploy.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema
import referencing

from pipeline.gateway.deploy_file import Escalation

CUT = "length"  # OpenAI's finish_reason
INSTEAD = ("tool_calls", "function_call", "refusal")  # of a text
THOUGHTS = ("reasoning", "reasoning_content")  # of vLLM and others
# A client's schema is not trusted: a pattern or references within references can take for ever, and
# a reference to elsewhere would be fetched. What cannot be checked so is taken to fit.
MOST_REFERENCES = 16
REFERENCE = re.compile(r'"\$(ref|dynamicRef|recursiveRef)"')
WITHOUT_PATTERNS = {"pattern": None, "patternProperties": None}


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
    """A text, or what stands for one: thoughts, a refusal, a call of a tool."""
    message = _message(choice)
    return bool(_text(choice) or any(message.get(name) for name in (*INSTEAD, *THOUGHTS)))


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
            return not text.strip() and not any(_message(choice).get(name) for name in INSTEAD)
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
    except (ValueError, RecursionError):
        return False
    if kind == "json_object":
        return isinstance(value, dict)
    try:
        schema = asked["json_schema"]["schema"]
        if len(REFERENCE.findall(json.dumps(schema))) > MOST_REFERENCES:
            return True
        checking = jsonschema.validators.extend(
            jsonschema.validators.validator_for(schema), WITHOUT_PATTERNS
        )
        return bool(checking(schema, registry=referencing.Registry()).is_valid(value))
    except Exception:  # no such schema: the server's business, and no other tier's
        return True
