from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import CalibrationError
from pipeline.recipe import Calibration, Perplexity, PromptSet
from pipeline.source import calibration, encoding, prompts

WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen".split()


class Characters:
    """A tokenizer of one id per character, with BOS 0 in front, as special tokens are."""

    bos_token_id = 0
    chat_template: str | None = None

    def __call__(
        self, text: str, add_special_tokens: bool = True, verbose: bool = True, **_: bool
    ) -> dict[str, list[Any]]:
        spans = [(0, 0)] * add_special_tokens + [(i, i + 1) for i in range(len(text))]
        return {
            "input_ids": [0] * add_special_tokens + [ord(c) for c in text],
            "offset_mapping": spans,
        }


def plan(**change: Any) -> Calibration:
    return Calibration(**{"prompts": "p", "samples": 3, "tokens": 16, **change})


def prompt_set(path: Path, **more: Any) -> PromptSet:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return PromptSet(path=str(path), sha256=digest, licence="x", source="x", **more)


def encoder(**more: Any) -> encoding.Encoder:
    return encoding.Encoder(Characters(), [0], **{"chat_template": False, **more})


def test_overlap_counts_thirteen_word_sequences() -> None:
    assert calibration.overlap([" ".join(WORDS)], [" ".join(WORDS[:13])]) == 0.5
    assert calibration.overlap([" ".join(WORDS)], ["; ".join(WORDS).upper()]) == 1.0
    assert calibration.overlap([" ".join(WORDS)], [" ".join(WORDS[:12])]) == 0.0
    assert calibration.overlap(["short"], ["short"]) == 0.0


def test_pack_is_seeded_cut_and_full() -> None:
    found: list[prompts.Document] = [c * 40 for c in "abcdef"]
    rows, used, _ = calibration.pack(encoder(), found, plan())
    assert [len(row) for row in rows] == [16, 16, 16]
    assert len(used) == 3
    assert rows[0] == [0] + [ord(used[0][0])] * 15  # cut to `tokens`, BOS first
    assert calibration.pack(encoder(), found, plan()) == (rows, used, 0)
    assert calibration.pack(encoder(), found, plan(seed=1)).used != used


def test_too_few_prompts_say_how_many_there_are() -> None:
    with pytest.raises(CalibrationError, match="need 48 tokens, the 1 prompts of 'p' give 4"):
        calibration.pack(encoder(), ["abc"], plan())


def test_windows_do_not_overlap_and_drop_the_tail() -> None:
    text = calibration.windows(Characters(), [0], "t", "x" * 20, Perplexity(texts=["t"], window=8))
    assert [len(w) for w in text.windows] == [8, 8]
    assert text.windows[0][0] == 0
    assert text.tokens_dropped == 5


def test_windows_with_bos_in_every_window() -> None:
    text = calibration.windows(
        Characters(), [0], "t", "x" * 20, Perplexity(texts=["t"], window=8, bos="every")
    )
    assert [w[0] for w in text.windows] == [0, 0]
    assert all(0 not in w[1:] for w in text.windows)


@pytest.mark.parametrize("bos", ["first", "every"])
def test_bytes_are_those_of_the_scored_tokens(bos: str) -> None:
    """All of a window but its first token, in UTF-8; where every window begins with BOS, all of its
    text."""
    written = "aé€" * 8
    found = calibration.windows(
        Characters(), [0], "t", written, Perplexity(texts=["t"], window=8, bos=bos)
    )
    assert len(found.bytes) == len(found.windows) == 3
    assert found.bytes == [sum(len(chr(c).encode()) for c in row[1:]) for row in found.windows]


def test_text_shorter_than_a_window() -> None:
    with pytest.raises(CalibrationError, match="do not fill one window of 64"):
        calibration.windows(Characters(), [0], "t", "x" * 20, Perplexity(texts=["t"], window=64))
