"""What a prompt set may hold: text or dialogues, in files as users have them; all else is refused
with its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline import cli, recipe
from pipeline.errors import CalibrationError
from pipeline.recipe import Calibration, PromptSet
from pipeline.records.artifact import hash_file
from pipeline.source import encoding, prompts
from pipeline.source.encoding import Encoder, Refused

DIALOGUE = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is rain?"},
]


def given(path: Path, content: bytes, field: str | None = "text") -> PromptSet:
    path.write_bytes(content)
    return PromptSet(
        path=str(path),
        sha256=hash_file(path, path.name).sha256,
        field=field,
        licence="x",
        source="x",
    )


def lines(*rows: Any) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def test_text_and_empty_rows_and_repeated_ones(tmp_path: Path) -> None:
    rows = lines(*({"text": text} for text in ("a b", None, "", "  ", "a b", "c")))
    found = prompts.documents("p", given(tmp_path / "p.jsonl", rows))
    assert (found.prompts, found.empty, found.repeated) == (["a b", "a b", "c"], 3, 1)
    assert prompts.notes(found) == [
        "3 empty rows are left out (of 6)",
        "1 documents are there more than once (of 6)",
    ]


def test_messages_stay_messages_and_are_no_evaluation_text(tmp_path: Path) -> None:
    source = given(tmp_path / "p.jsonl", lines({"text": DIALOGUE}, {"text": None}, {"text": []}))
    assert prompts.documents("p", source).prompts == [DIALOGUE]
    with pytest.raises(CalibrationError, match="'text' holds messages, evaluation texts are text"):
        prompts.texts("p", source)


def test_what_an_empty_turn_stood_between_is_one_turn(tmp_path: Path) -> None:
    said = [
        ("user", "What is rain?"),
        ("assistant", " "),
        ("user", "Hello?"),
        ("assistant", "Water."),
    ]
    empty = [{"role": role, "content": content} for role, content in said]
    calls = [{"role": "assistant", "content": "", "tool_calls": [{"name": name}]} for name in "ab"]
    results = [
        {"role": "tool", "content": "1"},
        {"role": "user", "content": ""},
        {"role": "tool", "content": "2"},
    ]
    source = given(
        tmp_path / "p.jsonl",
        lines({"text": empty}, {"text": [*calls, *results]}, {"text": DIALOGUE[1:] * 2}),
    )
    joined, tools, asked_twice = prompts.documents("p", source).prompts
    assert joined == [
        {"role": "user", "content": "What is rain?\n\nHello?"},
        {"role": "assistant", "content": "Water."},
    ]
    assert tools == [*calls, results[0], results[2]]
    assert asked_twice == DIALOGUE[1:] * 2


@pytest.mark.parametrize("half", ["\ud800", "a\udfff"])
def test_half_a_character_is_told_with_its_line(tmp_path: Path, half: str) -> None:
    whole = lines({"text": "\U0001f600"})  # two halves that make one, escaped
    assert prompts.documents("p", given(tmp_path / "p.jsonl", whole)).prompts == ["\U0001f600"]
    with pytest.raises(CalibrationError, match=r"p\.jsonl:2: '\\ud...' is half of a character"):
        prompts.documents(
            "p",
            given(
                tmp_path / "p.jsonl",
                whole + b"\n" + lines({"text": [{"role": "user", "content": half}]}),
            ),
        )


@pytest.mark.parametrize(
    "value",
    [3, 1.5, True, {"a": 1}, ["a", "b"], [{"role": "user"}, 3], [{"role": 1, "content": "a"}]],
)
def test_nothing_else_is_made_a_text_of(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CalibrationError, match=r"p\.jsonl:2: text: found"):
        prompts.documents("p", given(tmp_path / "p.jsonl", lines({"text": "a"}, {"text": value})))


def test_all_that_is_wrong_in_a_file_is_told_at_once(tmp_path: Path) -> None:
    rows = [
        {"text": "a"},
        {"text": 3},
        {"prompt": "b", "id": 1},
        *({"text": 1.5} for _ in range(30)),
    ]
    with pytest.raises(CalibrationError) as error:
        prompts.documents("p", given(tmp_path / "p.jsonl", lines(*rows)))
    said = str(error.value).splitlines()
    assert "p.jsonl:2: text: found 3" in said[0]
    assert said[1].endswith(
        "p.jsonl:3: no field 'text'; the line has: prompt, id. Set field: in calibration/p.yaml."
    )
    assert (len(said), said[-1]) == (11, "and 22 rows more")


def test_too_few_tokens_are_seen_without_a_tokenizer(tmp_path: Path) -> None:
    found = prompts.documents(
        "p", given(tmp_path / "p.jsonl", lines(*({"text": "word " * 30} for _ in range(8))))
    )
    prompts.require_enough("p", found, Calibration(prompts="p", samples=8, tokens=64))
    with pytest.raises(
        CalibrationError,
        match="9 samples of 64 tokens need 576 tokens, the 8 prompts of 'p' give 512 at most",
    ):
        prompts.require_enough("p", found, Calibration(prompts="p", samples=9, tokens=64))
    with pytest.raises(CalibrationError, match="8 prompts of 'p' give 1,328 at most"):
        prompts.require_enough("p", found, Calibration(prompts="p", samples=2, tokens=1000))
    one = prompts.documents("p", given(tmp_path / "p.txt", b"many words", field=None))
    with pytest.raises(CalibrationError, match=r"A \.txt file is one document"):
        prompts.require_enough("p", one, Calibration(prompts="p", samples=64, tokens=256))


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + lines({"text": "a"})
    assert prompts.documents("p", given(tmp_path / "p.jsonl", content)).prompts == ["a"]
    assert prompts.documents(
        "p", given(tmp_path / "p.jsonl.gz", gzip.compress(content))
    ).prompts == ["a"]


@pytest.mark.parametrize("name", ["book.txt", "wiki.test.raw", "README.md"])
def test_a_text_is_one_document_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    assert prompts.texts("p", given(tmp_path / name, b"a\n\nb", field=None)) == ["a\n\nb"]
    assert prompts.texts(
        "p", given(tmp_path / f"{name}.gz", gzip.compress(b"a\n\nb"), field=None)
    ) == ["a\n\nb"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", "caf\u00e9".encode("latin-1"), "UTF-8"),
        ("p.jsonl", b'{"text": "caf\xe9"}', "UTF-8"),
        ("p.jsonl", json.dumps([{"text": "a"}, {"text": "b"}]).encode(), "array"),
        ("p.jsonl", b'{"text": "a"}\n{"text": ', r"p\.jsonl"),
        ("p.jsonl.gz", gzip.compress(b'{"text": "a"}')[:-9], r"p\.jsonl\.gz"),
        (
            "p.csv",
            b"a,b",
            r"found p\.csv, expected JSON Lines \(\.jsonl\) or a text \(\.txt, \.raw, \.md\)",
        ),
        ("p.jsonl", lines({"prompt": "a"}), "prompt"),
    ],
)
def test_a_file_of_another_kind_is_one_sentence(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    with pytest.raises(CalibrationError, match=said):
        prompts.documents("p", given(tmp_path / name, content))


def test_a_missing_field_is_asked_for_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"field: missing; line 1 of .* has prompt, answer"):
        prompts.documents(
            "p", given(tmp_path / "p.jsonl", lines({"prompt": "a", "answer": "b"}), field=None)
        )


class Templated:
    """A tokenizer of one id a character that ends every text with 1, and whose template refuses
    what an assistant opens."""

    chat_template = "a template"

    def __call__(
        self, text: str, add_special_tokens: bool = True, **_: Any
    ) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in text] + [1] * add_special_tokens}

    def apply_chat_template(
        self, messages: list[dict[str, str]], strftime_now: Any, **_: Any
    ) -> str:
        if messages[0]["role"] == "assistant":
            raise ValueError("Conversation roles must alternate")
        return strftime_now("%d %b %Y") + "".join(f"<{m['role']}>{m['content']}" for m in messages)


class Endless(Templated):
    """A template with loops in loops, which Jinja's own limit on a range does not stop."""

    def apply_chat_template(self, *_: Any, **more: Any) -> str:
        loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        return ImmutableSandboxedEnvironment().from_string(loops).render()


def test_a_template_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "RENDER_S", 0.2)
    with pytest.raises(
        CalibrationError, match=r"chat template takes longer than 0\.2 s for one prompt"
    ):
        Encoder(Endless(), front=[], chat_template=False).text(DIALOGUE)


def test_a_dialogue_goes_through_the_template_with_a_fixed_date() -> None:
    encoder = Encoder(Templated(), front=[2], chat_template=False)
    text = encoder.text(DIALOGUE)
    assert text == "26 Jul 2024<system>Be brief.<user>What is rain?"
    assert encoder.dated
    assert encoder.ids(DIALOGUE, text) == [
        ord(c) for c in text
    ]  # the template writes what stands in front


def test_no_document_carries_the_tokenizers_end_token() -> None:
    encoder = Encoder(Templated(), front=[2], chat_template=False)
    assert encoder.ids("ab", encoder.text("ab")) == [2, ord("a"), ord("b")]


def test_what_a_template_refuses_says_so_in_its_words() -> None:
    with pytest.raises(Refused, match="Conversation roles must alternate"):
        Encoder(Templated(), [], chat_template=True).text(
            [{"role": "assistant", "content": "Hello."}]
        )


def test_a_token_without_an_embedding_is_found_before_a_quantizer_meets_it() -> None:
    encoding.require_rows("p", [[1, 2], [3]], 4)
    with pytest.raises(CalibrationError, match="gives token 4, the model's embedding has 4 rows"):
        encoding.require_rows("p", [[1, 2], [4]], 4)


def test_a_file_of_ones_own_becomes_a_prompt_set(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = project / "mine.jsonl"
    mine.write_bytes(lines({"id": 1, "text": "a b"}, {"id": 2, "text": ""}, {"id": 3, "text": "c"}))
    assert cli.main(["calibration", "add", "mine.jsonl", "--licence", "MIT"]) == 0
    said = capsys.readouterr().out
    assert "1 empty rows are left out (of 3)" in said
    assert "calibration/mine.yaml: 2 texts and 0 dialogues of mine.jsonl" in said
    source = recipe.load_prompt_set("mine")
    assert (source.path, source.field, source.licence) == ("mine.jsonl", "text", "MIT")
    assert prompts.documents("mine", source).prompts == ["a b", "c"]
    assert cli.main(["calibration", "add", "mine.jsonl"]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            lines({"prompt": "a", "answer": "b"}),
            "hold text or messages: prompt, answer. Say which: --field",
        ),
        (lines({"n": 1}), "hold text or messages: none"),
        (b"[1]", "a JSON array"),
        (lines({"text": "a"}, {"text": 3}), "mine.jsonl:2"),
        (b"", "is empty"),
    ],
)
def test_what_cannot_be_a_prompt_set_leaves_none(
    project: Path, content: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "mine.jsonl").write_bytes(content)
    assert cli.main(["calibration", "add", "mine.jsonl"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("calibration/mine.yaml").exists()
