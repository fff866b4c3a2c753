"""`quantgate calibration add FILE`: writes the prompt set of a local file, after all of it was
read."""

from __future__ import annotations

import io
from pathlib import Path

from ruamel.yaml import YAML

from pipeline import paths, reading
from pipeline.errors import CalibrationError
from pipeline.recipe import PROMPT_SET_NAME, PromptSet
from pipeline.recipe.parsing import nearest
from pipeline.records import write_text
from pipeline.records.artifact import hash_file
from pipeline.source import prompts

SUFFIXES = (".gz", prompts.LINES, *prompts.TEXTS)


def add(path: Path, name: str | None, field: str | None, licence: str) -> None:
    """Writes calibration/NAME.yaml; the name is the file's own unless given. Raises
    CalibrationError for what cannot be used."""
    name = name or _plain(path)
    place = paths.prompt_set(name)
    if not PROMPT_SET_NAME.fullmatch(name):
        raise CalibrationError(
            f"--name: found {name!r}, expected letters, digits, dots, dashes and underscores."
        )
    if place.exists():
        raise CalibrationError(f"{place}: is there already. Remove it, or give another --name.")
    lines = prompts.LINES in path.suffixes
    _require_content(path, lines)
    if lines and field is not None:
        _require_column(path, field)
    inside = path.resolve()
    shown = inside.relative_to(Path.cwd()) if inside.is_relative_to(Path.cwd()) else inside
    if lines and field is None:
        field = _field(path)
    digest = hash_file(path, path.name).sha256
    written = {
        "path": str(shown),
        "sha256": digest,
        "field": field,
        "licence": licence,
        "source": f"local file {path.name}",
    }
    prompt_set = PromptSet.model_validate(written)
    documents = prompts.documents(name, prompt_set)
    write_text(place, _yaml(prompt_set))
    for note in prompts.notes(documents):
        print(f"note: {note}")
    kinds = sum(not isinstance(document, str) for document in documents.prompts)
    print(f"{place}: {len(documents.prompts) - kinds} texts and {kinds} dialogues of {shown}")
    print(
        f"In a recipe: calibration: {{prompts: {name}, ...}}, or one of evaluate.perplexity.texts"
    )


def _plain(path: Path) -> str:
    name = path.name
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _require_content(path: Path, lines: bool) -> None:
    """Raises CalibrationError for what is no file, or holds nothing."""
    expected = f"Expected prompts: a text on each line ({prompts.LINES}), or a text as a whole."
    if not path.is_file():
        what = "a folder or a device" if path.exists() else "no such file"
        raise CalibrationError(f"{path}: {what}. {expected}")
    if not path.stat().st_size or (
        lines and next(reading.json_lines(path, CalibrationError), None) is None
    ):
        raise CalibrationError(f"{path}: is empty. {expected}")


def _require_column(path: Path, field: str) -> None:
    """Raises CalibrationError if no row has it; where some lack it, all of those are told later."""
    columns: dict[str, None] = {}
    for _, row in reading.json_lines(path, CalibrationError):
        if field in row:
            return
        columns |= dict.fromkeys(row)
    raise CalibrationError(
        f"--field: found {field!r}, {path} has the columns"
        f" {', '.join(list(columns)[: prompts.MOST_TOLD])}.{nearest(field, columns)}"
    )


def _field(path: Path) -> str:
    """The one column whose first row is a text or messages."""
    number, row = next(reading.json_lines(path, CalibrationError), (1, {}))
    usable = [key for key, value in row.items() if isinstance(value, str | list)]
    if len(usable) != 1:
        names = ", ".join(usable[: prompts.MOST_TOLD]) or "none"
        raise CalibrationError(
            f"{path}:{number}: fields that hold text or messages: {names}. Say which: --field NAME"
        )
    return usable[0]


def _yaml(source: PromptSet) -> str:
    stream, yaml = io.StringIO(), YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(source.model_dump(exclude_none=True), stream)
    return stream.getvalue()
