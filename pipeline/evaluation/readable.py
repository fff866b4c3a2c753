"""A task item in words, for people who look at one whose answer changed."""

from __future__ import annotations

from typing import Any

QUESTION, ANSWER = 230, 70  # characters kept of each


def readable(task: Any, document: dict[str, Any]) -> str:
    """An item's question and right answer. The question keeps its end, which asks; what stands
    before it is context.

    Where a blank is filled in (WinoGrande), lm-eval's question is the number of a choice, and the
    answer what follows it."""
    question, answer = task.doc_to_text(document), task.doc_to_target(document)
    choices = task.doc_to_choice(document) if task.OUTPUT_TYPE == "multiple_choice" else []
    if isinstance(question, int):
        question = choices[question]
    elif isinstance(answer, int) and choices:
        answer = choices[answer]
    question, answer = (
        str(question).strip(),
        (" / ".join(map(str, answer)) if isinstance(answer, list) else str(answer)).strip(),
    )
    if len(question) > QUESTION:
        question = f"… {question[-QUESTION:]}"
    return f"{question} → {answer if len(answer) <= ANSWER else answer[:ANSWER] + ' …'}"
