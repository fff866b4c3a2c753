"""Prompt sets: what lies in a file or a hub data set, as documents of a known kind.

A document is a text, or a dialogue: messages of a role and a content. Whatever else a row holds is
refused, never made a text of; rows without anything are counted and left out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import reading
from pipeline.errors import CalibrationError
from pipeline.recipe import Calibration, PromptSet
from pipeline.records.artifact import hash_file
from pipeline.source import hub

Message = dict[str, Any]
Document = str | list[Message]

AROUND = 16  # tokens that a tokenizer may put around a text
MOST_TOLD = 10  # rows of a file that are told to be wrong
LINES = ".jsonl"
TEXTS = (".txt", ".raw", ".md")  # .raw: WikiText's own name for its untokenized text


class Documents(NamedTuple):
    """Documents of a prompt set in its order; `empty` rows were left out, `repeated` are there
    again."""

    prompts: list[Document]
    empty: int
    repeated: int


class Absent(NamedTuple):
    """Stands for the value of a row that has no such field, but others."""

    field: str
    names: str
    named_in: str


def documents(name: str, source: PromptSet) -> Documents:
    """All documents of a prompt set. Raises CalibrationError if it is missing, changed, empty, or
    holds anything else."""
    rows = list(_local(name, source) if source.path is not None else _hub(name, source))
    first = source.first or 0
    chosen = rows[first : first + source.documents if source.documents else None]
    kept = [document for document in _read(chosen) if document is not None]
    if not kept:
        raise CalibrationError(
            f"prompt set {name!r}: no text left: of {len(rows):,} documents {first:,} are skipped"
            f" (first), and the {len(chosen):,} behind them are empty."
        )
    distinct = {str(document) for document in kept}
    return Documents(kept, len(chosen) - len(kept), len(kept) - len(distinct))


def _read(rows: list[tuple[str, Any]]) -> list[Document | None]:
    """What each row holds. Raises CalibrationError with all that is wrong in them, so that a file
    is mended once."""
    read, wrong = [], []
    for where, value in rows:
        try:
            read.append(_document(where, value))
        except CalibrationError as error:
            wrong.append(str(error))
    if wrong:
        more = [f"and {len(wrong) - MOST_TOLD:,} rows more"] if len(wrong) > MOST_TOLD else []
        raise CalibrationError("\n".join([*wrong[:MOST_TOLD], *more]))
    return read


def require_enough(name: str, held: Documents, calibration: Calibration) -> None:
    """Raises CalibrationError where no tokenizer can make the tokens that are asked for; how many
    it makes, calibrating tells.

    A document is cut to `calibration.tokens`; a token of a text stands for a byte at least, but for
    a few that are put around it."""
    lengths = [
        len(one.encode()) + AROUND
        if isinstance(one, str) and not calibration.chat_template
        else calibration.tokens
        for one in held.prompts
    ]
    most = sum(min(length, calibration.tokens) for length in lengths)
    need = calibration.samples * calibration.tokens
    if most < need:
        cut = (
            " A .txt file is one document: use a .jsonl file with a prompt on each line."
            if len(held.prompts) == 1
            else ""
        )
        raise CalibrationError(
            f"calibration: {calibration.samples} samples of {calibration.tokens} tokens need"
            f" {need:,} tokens, the {len(held.prompts):,} prompts of {name!r} give {most:,} at most"
            f" (each is cut to {calibration.tokens}). Ask for fewer samples or tokens, or bring"
            f" more prompts.{cut}"
        )


def texts(name: str, source: PromptSet) -> list[str]:
    """The documents where they have to be texts. Raises CalibrationError for dialogues."""
    plain = []
    for document in documents(name, source).prompts:
        if not isinstance(document, str):
            raise CalibrationError(
                f"prompt set {name!r}: field {source.field!r} holds messages, evaluation texts are"
                " text. Name another field."
            )
        plain.append(document)
    return plain


def _document(where: str, value: Any) -> Document | None:
    """A row's value as text or messages; None if there is nothing in it."""
    if value is None or (isinstance(value, str) and not value.strip()) or value == []:
        return None
    if isinstance(value, Absent):
        raise CalibrationError(
            f"{where}: no field {value.field!r}; the line has: {value.names}. Set field: in"
            f" {value.named_in}."
        )
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        messages = [_message(where, entry) for entry in value]
        spoken = [
            message for message in messages if message["content"].strip() or "tool_calls" in message
        ]
        return (spoken if len(spoken) == len(messages) else in_turn(spoken)) or None
    raise CalibrationError(
        f"{where}: found {str(value)[:60]} ({type(value).__name__}), expected a text, or a list of"
        ' messages ({"role": ..., "content": ...}). Name the column that holds it as field.'
    )


def _message(where: str, entry: Any) -> Message:
    role, content = (
        (entry.get("role"), entry.get("content")) if isinstance(entry, dict) else (None, None)
    )
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        content = "".join(part["text"] for part in content)
    if not isinstance(role, str) or not isinstance(content, str | None):
        raise CalibrationError(
            f'{where}: found the message {str(entry)[:80]}, expected {{"role": "user", "content":'
            ' "a text"}. Convert the dialogues, or name a column of texts as field.'
        )
    called = {"tool_calls": entry["tool_calls"]} if entry.get("tool_calls") else {}
    return {"role": role, "content": content or "", **called}


def _local(name: str, source: PromptSet) -> Iterator[tuple[str, Any]]:
    path = Path(str(source.path))
    if not path.is_file():
        raise CalibrationError(
            f"prompt set {name!r}: path: {path} is"
            f" {'a folder or a device' if path.exists() else 'not there'}."
        )
    digest = hash_file(path, path.name).sha256
    if digest != source.sha256:
        raise CalibrationError(
            f"prompt set {name!r}: {path} has SHA-256 {digest}, calibration/{name}.yaml says"
            f" {source.sha256}. The file changed: restore it, or write the new hash if the change"
            " is meant."
        )
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind != LINES and kind not in TEXTS:
        raise CalibrationError(
            f"prompt set {name!r}: path: found {path.name}, expected JSON Lines ({LINES}) or a text"
            f" ({', '.join(TEXTS)}), or one of them as .gz."
        )
    if kind in TEXTS:
        yield str(path), reading.text(path, CalibrationError)
        return
    if source.field is None:
        number, row = next(reading.json_lines(path, CalibrationError), (1, {}))
        raise CalibrationError(
            f"calibration/{name}.yaml: field: missing; line {number} of {path} has {_names(row)}. "
            "Add field: the one that holds the text."
        )
    for number, row in reading.json_lines(path, CalibrationError):
        if source.field in row:
            yield f"{path}:{number}: {source.field}", row[source.field]
        else:
            yield f"{path}:{number}", Absent(source.field, _names(row), f"calibration/{name}.yaml")


def _names(row: dict[str, Any]) -> str:
    return ", ".join(list(row)[:10])[:200] or "nothing"


def is_here(source: PromptSet) -> bool:
    """Whether a hub data set can be loaded; of a worker that is offline, whether it is in the
    cache."""
    try:
        _loaded(source)
    except Exception as error:  # the library raises a different class for each way to be offline
        return not hub.is_unreachable(error)
    return True


def _loaded(source: PromptSet) -> Any:
    from datasets import load_dataset

    return load_dataset(
        source.repo,
        source.config,
        data_dir=source.data_dir,
        split=source.split,
        revision=source.revision,
    )


def _hub(name: str, source: PromptSet) -> Iterator[tuple[str, Any]]:
    try:
        rows = _loaded(source)
    except Exception as error:  # the library raises a different class for each way to be offline
        raise CalibrationError(
            f"prompt set {name!r}: hub data set {source.repo} at {source.revision} cannot be had:"
            f" {hub.reason(error)}. {hub.BRING}, or use a local file (quantgate calibration add"
            " FILE)."
        ) from error
    if source.field not in rows.column_names:
        raise CalibrationError(
            f"prompt set {name!r}: field {source.field!r} not in {rows.column_names}."
        )
    yield from (
        (f"{source.repo}, row {number}: {source.field}", row)
        for number, row in enumerate(rows[source.field])
    )


def in_turn(messages: list[Message]) -> list[Message]:
    """What one role says in a row as one turn, since templates want roles to take turns; calls of
    tools and results stay apart."""

    def speaker(message: Message) -> object:
        return (
            message["role"]
            if message["role"] in ("user", "assistant") and "tool_calls" not in message
            else id(message)
        )

    groups = (list(group) for _, group in groupby(messages, speaker))
    return [
        {**group[0], "content": "\n\n".join(message["content"] for message in group)}
        for group in groups
    ]


def notes(held: Documents) -> list[str]:
    """What a reader is to know of the rows."""
    counts = [
        (held.empty, "empty rows are left out"),
        (held.repeated, "documents are there more than once"),
    ]
    return [
        f"{count:,} {what} (of {len(held.prompts) + held.empty:,})"
        for count, what in counts
        if count
    ]
