"""Malformed files, drawn at random: whatever users bring, a reader returns or raises an error of ours."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import reading
from pipeline.errors import QuantgateError, RecipeError
from pipeline.recipe import PromptSet, Recipe, parsing
from pipeline.source import files as source
from pipeline.source import prompts, tensors
from tests.conftest import ROOT

CHECKPOINT = ROOT / "recipes" / "tiny" / "checkpoint"
# What breaks readers: deep nesting, huge numbers, dates, tags, aliases, nulls, surrogates, control and byte-order characters.
PIECES = [
    b"[" * 3000, b"{" * 3000, b'{"a":' * 3000, b"9" * 5000, b"-1e999", b"NaN", b"2024-13-45", b"0:99:99",
    b"!!int abc", b"!!binary %", b"!!timestamp x", b"!!python/object:os.system x", b"!!set {a}", b"!!omap [a]",
    b"&a [*a]", b"*a", b"<<: x", b"? x", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800", b'"', b"'", b"\t",
    b"%YAML 9.9\n", b"---\n", b"null", b"{}", b"[]", b"0x" + b"f" * 300, b"\xf0\x9f\x98\x80", b"\x85",
    b"\xe2\x80\xa8", b": ", b"- ", b"#", b"|\n", b">9\n", b"@", b"`",
]  # fmt: skip
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Cut, doubled, overwritten or with a piece put in, up to four times."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(found) + 1)
        match chance.randrange(5):
            case 0:
                del found[place:]
            case 1:
                found[place:place] = chance.choice(PIECES)
            case 2:
                found[place : place + chance.randrange(1, 40)] = chance.choice(PIECES)
            case 3:
                found[place:place] = found[place : place + chance.randrange(1, 200)]
            case _:
                found[place : place + 1] = bytes([chance.randrange(256)])
    return bytes(found)


def recipe(path: Path) -> Any:
    return parsing.parse(path, Recipe)


def yaml(path: Path) -> Any:
    return reading.yaml(path, RecipeError)


def json_object(path: Path) -> Any:
    return reading.json_object(path, RecipeError)


def json_lines(path: Path) -> Any:
    return list(reading.json_lines(path, RecipeError))


def header(path: Path) -> Any:
    return tensors.read_header(path)


def _lines() -> bytes:
    rows: list[dict[str, Any]] = [{"text": "a"}, {"messages": [{"role": "user", "content": "b"}]}, {"n": [1, 2.5, None, True]}]
    return "\n".join(json.dumps(row) for row in rows).encode()


def _weights() -> bytes:
    entries = {
        "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]},
    }
    written = json.dumps(entries).encode()
    return len(written).to_bytes(8, "little") + written + bytes(24)


SEEDS: dict[str, tuple[str, Callable[[Path], Any], Callable[[], bytes]]] = {
    "recipe": ("tiny.yaml", recipe, (ROOT / "recipes" / "tiny.yaml").read_bytes),
    "yaml": ("x.yaml", yaml, lambda: b"a: [1, 2.5, 2024-01-01, {b: c}]\nd: &x {e: f}\ng: *x\n"),
    "json": ("config.json", json_object, (CHECKPOINT / "config.json").read_bytes),
    "json_lines": ("x.jsonl", json_lines, _lines),
    "gzip": ("x.jsonl.gz", json_lines, lambda: gzip.compress(_lines())),
    "safetensors": ("x.safetensors", header, _weights),
}


def tried(kind: str, folder: Path, rounds: int) -> int:
    """How many of the mutated files were refused. Any other exception than ours ends the test, with the file kept."""
    name, reader, whole = SEEDS[kind]
    data, chance, path, refused = whole(), random.Random(kind), folder / name, 0
    for _ in range(rounds):
        path.write_bytes(mutated(data, chance))
        try:
            reader(path)
        except QuantgateError as error:
            refused += 1
            assert str(path) in str(error)
            assert len(str(error)) < 20_000
    return refused


@pytest.mark.parametrize("kind", SEEDS)
def test_readers_raise_nothing_but_our_errors(kind: str, tmp_path: Path) -> None:
    assert tried(kind, tmp_path, 60 if kind == "recipe" else 250) > 20


@pytest.mark.thorough
@pytest.mark.parametrize("kind", SEEDS)
def test_readers_raise_nothing_but_our_errors_for_long(kind: str, tmp_path: Path) -> None:
    assert tried(kind, tmp_path, 2000 if kind == "recipe" else 20_000) > 1000


@pytest.mark.parametrize(
    "value", ["2024-13-45", "!!int abc", "9" * 5000, "[" * 5000, "!!timestamp x", "!!python/object:os.system x"]
)
def test_a_value_that_yaml_cannot_make_is_an_error_of_ours(tmp_path: Path, value: str) -> None:
    (tmp_path / "x.yaml").write_text(f"model: {value}\n")
    with pytest.raises(RecipeError, match=r"x\.yaml") as error:
        recipe(tmp_path / "x.yaml")
    assert len(str(error.value)) < 2000


def test_an_alias_bomb_is_counted_before_it_is_written_out(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"{BOMB}model: *a59\n")
    with pytest.raises(RecipeError, match="once its aliases are written out"):
        recipe(tmp_path / "x.yaml")


def test_prompts_of_any_form_are_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance, path = random.Random(0), tmp_path / "x.jsonl"
    monkeypatch.chdir(tmp_path)
    for _ in range(150):
        path.write_bytes(mutated(_lines(), chance))
        digest = reading_digest(path)
        given = PromptSet(path=str(path), sha256=digest, field=chance.choice(["text", "messages", "n"]), licence="x", source="x")
        with contextlib.suppress(QuantgateError):
            prompts.documents("x", given)


def reading_digest(path: Path) -> str:
    from pipeline.records import artifact

    return artifact.hash_file(path, path.name).sha256


def test_a_configuration_of_any_form_is_an_error_of_ours(tmp_path: Path) -> None:
    chance, data = random.Random(0), (CHECKPOINT / "config.json").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(_weights())
    for _ in range(150):
        (tmp_path / "config.json").write_bytes(mutated(data, chance))
        with contextlib.suppress(QuantgateError):
            source.refuse(tmp_path)
