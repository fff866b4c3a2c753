"""What is kept of an item for people: the question and the right answer of lm-eval's kinds of
tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from pipeline.evaluation.readable import readable


@dataclass
class Asked:
    """The three questions that lm-eval's tasks answer about a document."""

    text: Any
    target: Any
    choices: list[str] = field(default_factory=list)

    @property
    def OUTPUT_TYPE(self) -> str:
        return "multiple_choice" if self.choices else "generate_until"

    def doc_to_text(self, document: dict[str, Any]) -> Any:
        return self.text

    def doc_to_target(self, document: dict[str, Any]) -> Any:
        return self.target

    def doc_to_choice(self, document: dict[str, Any]) -> list[str]:
        return self.choices


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Asked("Question: 1 + 1?\nAnswer:", 1, [" 3.", " 2."]), "Question: 1 + 1?\nAnswer: → 2."),
        (Asked("Name it:", " Ana"), "Name it: → Ana"),
        (Asked(1, "was late.", ["Tom", "Ana"]), "Ana → was late."),
        (Asked("Name one:", ["Ana", "Tom"]), "Name one: → Ana / Tom"),
    ],
)
def test_question_and_right_answer(asked: Asked, expected: str) -> None:
    assert readable(asked, {}) == expected


def test_long_texts_are_cut_and_the_question_keeps_its_end() -> None:
    text = readable(Asked("x" * 1000 + " Who?", "y" * 1000), {})
    assert len(text) < 320
    assert text.startswith("… x")
    assert " Who? → yyy" in text
    assert text.endswith("y …")
