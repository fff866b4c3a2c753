"""YAML and systemd units from plain values."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

# What a reader of YAML 1.1, as Kubernetes has one, takes for something else than a text.
NOT_PLAIN = re.compile(
    r"y|n|yes|no|on|off|true|false|null|~|[-+]?\.?(\d[\da-f_.:xo+-]*|inf|nan)", re.IGNORECASE
)
WIDTH = 10_000  # lines are not folded
Value = str | int | bool
Lines = list[tuple[str, Value]]


def yaml(value: Any, header: str = "") -> str:
    """One document. `header`: a comment, without its signs."""
    stream, writer = io.StringIO(), YAML()
    writer.default_flow_style = False
    writer.width = WIDTH
    writer.representer.ignore_aliases = lambda *_: True
    writer.indent(mapping=2, sequence=4, offset=2)
    writer.dump(_marked(value), stream)
    return comment(header) + stream.getvalue()


def documents(values: Iterable[Any], header: str = "") -> str:
    return comment(header) + "---\n".join(yaml(value) for value in values)


def comment(text: str) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in text.splitlines())


def _marked(value: Any) -> Any:
    """With the texts that need it quoted, and those of several lines as blocks."""
    if isinstance(value, dict):
        return {str(key): _marked(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_marked(one) for one in value]
    if isinstance(value, str) and "\n" in value:
        return LiteralScalarString(value)
    if isinstance(value, str) and NOT_PLAIN.fullmatch(value):
        return DoubleQuotedScalarString(value)
    return value


def unit(sections: dict[str, Lines], header: str = "") -> str:
    """A systemd unit. A key may stand several times."""
    parts = [
        f"[{name}]\n" + "".join(f"{key}={_word(value)}\n" for key, value in lines)
        for name, lines in sections.items()
    ]
    return comment(header) + "\n".join(parts)


def _word(value: Value) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
