"""Strategies for files that users bring: documents of a format, made of what breaks readers, and
good files that were damaged."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

from hypothesis import strategies as st

from pipeline.source.tensors import BITS

# What breaks readers: deep nesting, huge numbers, dates, tags, aliases, nulls, surrogates, control
# and byte-order characters.
PIECES = [
    b"[" * 3000,
    b"{" * 3000,
    b'{"a":' * 3000,
    b"9" * 5000,
    b"-1e999",
    b"NaN",
    b"2024-13-45",
    b"0:99:99",
    b"!!int abc",
    b"!!binary %",
    b"!!timestamp x",
    b"!!python/object:os.system x",
    b"!!set {a}",
    b"!!omap [a]",
    b"&a [*a]",
    b"*a",
    b"<<: x",
    b"? x",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b'"',
    b"'",
    b"\t",
    b"%YAML 9.9\n",
    b"---\n",
    b"null",
    b"{}",
    b"[]",
    b"0x" + b"f" * 300,
    b"\xf0\x9f\x98\x80",
    b"\x85",
    b"\xe2\x80\xa8",
    b": ",
    b"- ",
    b"#",
    b"|\n",
    b">9\n",
    b"@",
    b"`",
]
TAGS = [
    "",
    "!!int ",
    "!!float ",
    "!!bool ",
    "!!null ",
    "!!str ",
    "!!timestamp ",
    "!!binary ",
    "!!set ",
    "!!omap ",
    "!!pairs ",
    "!!map ",
    "!!seq ",
    "!!python/name:os.system ",
    "!own ",
    "&a ",
    "&b ",
]
ODD = [
    "2024-13-45",
    "2024-01-01",
    "0:99:99",
    "1e400",
    ".nan",
    "-.inf",
    "0o9",
    "0x",
    "1_000",
    "~",
    "yes",
    "=",
    "<<",
    "*a",
    "*b",
    "9" * 5000,
    "'",
    '"\\ud800"',
    '"\\x"',
    "|",
    "? ",
    "2024-01-01T25:61:61Z",
]
EDGES = [
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    10**21,
    10**400,
    1e308,
    -1e308,
    5e-324,
    float("inf"),
    float("nan"),
    "",
    "\x00",
    "..",
    "~",
    "9" * 5000,
    "\ud800",
    "a" * 10_000,
    None,
    True,
    [],
    {},
    [[]],
    [None],
    {"": None},
]


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """A file that was cut, doubled, overwritten or got a piece put in, up to four times."""
    place = st.integers(0, len(whole))
    pieces = st.one_of(st.sampled_from(PIECES), st.binary(min_size=1, max_size=8))
    kinds = st.sampled_from([_cut, _inserted, _overwritten, _doubled])
    return st.lists(
        st.tuples(kinds, place, st.integers(1, 200), pieces), min_size=1, max_size=4
    ).map(lambda edits: reduce(lambda found, edit: edit[0](found, *edit[1:]), edits, whole))


def _cut(data: bytes, place: int, *_: Any) -> bytes:
    return data[:place]


def _inserted(data: bytes, place: int, _: int, piece: bytes) -> bytes:
    return data[:place] + piece + data[place:]


def _overwritten(data: bytes, place: int, length: int, piece: bytes) -> bytes:
    return data[:place] + piece + data[place + length :]


def _doubled(data: bytes, place: int, length: int, _: bytes) -> bytes:
    return data[: place + length] + data[place:]


def values() -> st.SearchStrategy[Any]:
    """Any value that JSON can say, and some that Python alone writes."""
    plain = st.one_of(
        st.sampled_from(EDGES), st.integers(), st.floats(), st.text(max_size=20), st.booleans()
    )
    return st.recursive(
        plain,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
        ),
    )


def yaml_documents() -> st.SearchStrategy[bytes]:
    """YAML in flow style, with tags, anchors, aliases and forms of numbers and dates where any
    value may stand."""
    words = st.one_of(
        st.sampled_from(ODD), st.text(max_size=12), st.integers().map(str), st.floats().map(repr)
    )
    plain = st.tuples(st.sampled_from(TAGS), words).map("".join)
    inner = st.recursive(
        plain,
        lambda node: st.one_of(
            st.tuples(st.sampled_from(TAGS), st.lists(node, max_size=4)).map(
                lambda pair: f"{pair[0]}[{', '.join(pair[1])}]"
            ),
            st.tuples(st.sampled_from(TAGS), st.lists(st.tuples(plain, node), max_size=4)).map(
                lambda pair: (
                    f"{pair[0]}{{{', '.join(f'{key}: {value}' for key, value in pair[1])}}}"
                )
            ),
        ),
    )
    lines = st.lists(
        st.tuples(plain, inner).map(lambda pair: f"{pair[0]}: {pair[1]}"), min_size=1, max_size=4
    )
    return lines.map(lambda found: "\n".join(found).encode(errors="surrogatepass"))


def replaced(whole: Any) -> st.SearchStrategy[Any]:
    """The same value with one part of it replaced by any other, or with a key that is not known."""
    ways = [way for way in places(whole) if way]

    def put(way: tuple[Any, ...], value: Any) -> Any:
        changed = copy.deepcopy(whole)
        reduce(lambda node, key: node[key], way[:-1], changed)[way[-1]] = value
        return changed

    return st.builds(put, st.sampled_from(ways), values())


def places(node: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every part of a value, itself first."""
    yield way
    for key, value in (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    ):
        yield from places(value, (*way, key))


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


def json_lines(rows: list[Any]) -> st.SearchStrategy[bytes]:
    """Lines of any values, among them rows with one part replaced."""
    line = st.one_of(st.sampled_from(rows), values(), *(replaced(row) for row in rows)).map(written)
    return st.lists(line | st.binary(max_size=20), min_size=1, max_size=6).map(b"\n".join)


def zipped(contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """gz files, whole, cut, behind each other or with rubbish around."""

    def pack(data: bytes, cut: int, rest: bytes) -> bytes:
        packed = gzip.compress(data, mtime=0)
        return packed[: len(packed) - cut] + rest

    again: Callable[[bytes], bytes] = gzip.compress
    return st.builds(
        pack,
        contents | contents.map(again),
        st.integers(0, 12),
        st.sampled_from([b"", b"\x00" * 9, b"rest"]),
    )


def weights() -> st.SearchStrategy[bytes]:
    """Safetensors files: any header of the right form, most with offsets that follow each other, of
    the length it says or not."""
    sizes = st.lists(
        st.sampled_from([0, 1, 2, 3, 8, -1, 2**31, 2**63, 10**30, True, 1.5, "2", None]), max_size=4
    )
    entry = st.fixed_dictionaries(
        {"dtype": st.sampled_from([*BITS, "F33", 4, None]), "shape": sizes | values()},
        optional={
            "data_offsets": st.lists(st.integers(-2, 40), min_size=1, max_size=3) | values(),
            "more": values(),
        },
    )
    header = st.dictionaries(
        st.sampled_from(["a", "b", "c", "__metadata__", "", "\x00"]), entry | values(), max_size=4
    )
    return st.builds(framed, header.map(_placed) | header, st.integers(-2, 2), st.integers(0, 64))


def _placed(header: dict[str, Any]) -> dict[str, Any]:
    """The offsets as the format wants them, for entries that have none."""
    last, found = 0, {}
    for name, entry in header.items():
        found[name] = entry
        if isinstance(entry, dict) and "data_offsets" not in entry and "dtype" in entry:
            found[name] = {**entry, "data_offsets": [last, last + 4]}
            last += 4
    return found


def framed(header: dict[str, Any], off: int, data: int) -> bytes:
    """A safetensors file of `data` zero bytes, whose header's length is said `off` bytes too
    long."""
    said = written(header)
    return max(0, len(said) + off).to_bytes(8, "little") + said + bytes(data)
