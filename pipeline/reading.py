"""One reader for each format that users bring, with limits: what is too large, too deep or no such
file is one sentence.

Each raises the class of error that its caller gives, with the file in front.
"""

from __future__ import annotations

import gzip
import json
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import QuantgateError

MOST_YAML_BYTES = 1_000_000
MOST_YAML_DEPTH = 100
MOST_YAML_NODES = 100_000  # with every alias written out; a recipe has a few hundred
MOST_JSON_BYTES = 200_000_000  # tokenizer.json of large vocabularies has 35 MB
MOST_TEXT_BYTES = 2_000_000_000  # of a prompt set, unpacked
CHUNK_BYTES = 1 << 20
ESCAPED_HALF = re.compile(
    r"\\u[dD][89a-fA-F]"
)  # of a surrogate pair; JSON may have one alone, UTF-8 may not
Kind = type[QuantgateError]


def content(path: Path, error: Kind, most: int) -> bytes:
    """The bytes of a file, unpacked where its name ends with .gz; `most` bytes at most."""
    try:
        if not path.is_file():
            raise error(
                f"{path}: {'is a folder or no regular file' if path.exists() else 'no such file'}."
                " Expected a file."
            )
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            data = bytearray()
            while part := stream.read(CHUNK_BYTES):
                data += part
                if len(data) > most:
                    raise error(
                        f"{path}: more than {most / 1e6:,.0f} MB, which is the most that is read of"
                        " such a file."
                    )
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise error(f"{path}: not a whole gzip file ({problem}). Fetch it again.") from problem
    except (OSError, ValueError) as problem:  # ValueError: a null byte in the path
        raise error(f"{path}: cannot be read: {_reason(problem)}.") from problem
    return bytes(data)


def text(path: Path, error: Kind, most: int = MOST_TEXT_BYTES) -> str:
    """UTF-8; a byte order mark in front is no part of the text."""
    data = content(path, error, most)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise error(
            f"{path}: byte {problem.start} (line {line}) is {data[problem.start]:#04x}, which is"
            " not UTF-8. Expected UTF-8 text: convert it, for instance with: iconv -f latin1 -t"
            f" utf-8 {path.name}"
        ) from problem


def json_object(path: Path, error: Kind) -> dict[str, Any]:
    """A file that holds one JSON object."""
    value = json_value(text(path, error, MOST_JSON_BYTES), str(path), error)
    if not isinstance(value, dict):
        raise error(f"{path}: expected a JSON object, found {type(value).__name__}.")
    return value


def json_value(written: str | bytes, where: str, error: Kind, unique: bool = False) -> Any:
    """What some JSON says. With `unique`, a name that stands twice in one object is refused."""
    try:
        value = json.loads(written, object_pairs_hook=_once if unique else None)
        if isinstance(written, str) and ESCAPED_HALF.search(written):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as problem:
        half = problem.object[problem.start]
        raise error(
            f"{where}: {half!r} is half of a character, which no text can hold. Write the whole"
            " one."
        ) from problem
    except RecursionError as problem:
        raise error(f"{where}: JSON that is nested too deeply.") from problem
    except (
        ValueError
    ) as problem:  # of which JSON's and Unicode's errors are kinds, and numbers of too many digits
        raise error(f"{where}: cannot be read as JSON: {problem}.") from problem
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return values


def json_lines(path: Path, error: Kind) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file with their line numbers; empty lines are left out."""
    written = text(path, error)
    if written.lstrip()[:1] == "[":
        raise error(
            f"{path}: a JSON array, expected JSON lines: an object on each line, without brackets"
            " around all and commas between. Convert it, for instance with: jq -c '.[]'"
            f" {path.name}"
        )
    for number, line in enumerate(written.split("\n"), 1):
        if not line.strip():
            continue
        value = json_value(line, f"{path}:{number}", error)
        if not isinstance(value, dict):
            raise error(
                f"{path}:{number}: expected a JSON object on each line, found"
                f" {type(value).__name__}."
            )
        yield number, value


def yaml(path: Path, error: Kind) -> Any:
    return yaml_value(text(path, error, MOST_YAML_BYTES), str(path), error)


def yaml_value(written: str, path: str, error: Kind) -> Any:
    """A YAML document as plain values: nothing in it runs, and aliases are counted as if they were
    written out."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import ReusedAnchorWarning, YAMLError

    warnings.simplefilter("ignore", ReusedAnchorWarning)  # YAML allows it
    try:
        _require_shallow(YAML(typ="safe", pure=True).parse(written))
        node = YAML(typ="safe", pure=True).compose(written)
        if _nodes(node, {}) > MOST_YAML_NODES:
            raise error(
                f"{path}: more than {MOST_YAML_NODES:,} values once its aliases are written out."
                " Write them without aliases."
            )
        return YAML(typ="safe", pure=True).load(written)
    except YAMLError as problem:
        raise error(f"{path}: not valid YAML: {' '.join(str(problem).split())}") from problem
    except RecursionError as problem:
        raise error(
            f"{path}: not valid YAML: nested too deeply, or an alias within what it stands for."
        ) from problem
    except (ValueError, TypeError, AttributeError, OverflowError, LookupError) as problem:
        # ruamel's constructors of dates, numbers and tags raise what Python raises
        raise error(
            f"{path}: not valid YAML: a value cannot be read as its tag or form says: {problem}."
        ) from problem


def _require_shallow(events: Iterator[Any]) -> None:
    """Raises RecursionError long before Python would: to unwind a thousand levels of ruamel's takes
    seconds."""
    from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

    depth = 0
    for event in events:
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MOST_YAML_DEPTH:
            raise RecursionError


def _nodes(node: Any, known: dict[int, int]) -> int:
    """How many values a node holds, each alias counted with all that it stands for."""
    if node is None or isinstance(node.value, str):
        return 1
    if id(node) in known:
        if not known[id(node)]:
            raise RecursionError
        return known[id(node)]
    known[id(node)] = 0
    parts = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
    known[id(node)] = 1 + sum(_nodes(part, known) for part in parts)
    return known[id(node)]


def _reason(problem: Exception) -> str:
    return str(getattr(problem, "strerror", None) or problem)
