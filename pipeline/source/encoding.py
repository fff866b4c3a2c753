"""Documents as text and token ids, through the checkpoint's tokenizer and chat template."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeline.errors import CalibrationError
from pipeline.source.prompts import Document, Message, in_turn

# Templates that write today's date get this one, or the calibration set would depend on the clock.
# Llama 3.1's template has it as its own default.
TEMPLATE_DATE = datetime(2024, 7, 26)
RENDER_S = 10  # for one prompt; a template is a program


class Refused(Exception):
    """The chat template does not take a dialogue; the message is the template's own."""


@dataclass
class Encoder:
    """Documents as text and token ids: dialogues, and with `chat_template` prompts, through the
    checkpoint's chat template.

    `front` is what the tokenizer puts before a text; a template writes it itself. No document has
    the tokenizer's end token."""

    tokenizer: Any
    front: list[int]
    chat_template: bool
    dialogue: str | None = None
    dated: bool = field(default=False, init=False)  # whether a template asked for today's date

    def text(self, document: Document) -> str:
        """Raises CalibrationError if there is no chat template where one is needed, Refused if it
        does not take the dialogue."""
        if isinstance(document, str) and not self.chat_template:
            return document
        if self.tokenizer.chat_template is None:
            wants = (
                "calibration.chat_template: true"
                if isinstance(document, str)
                else "the prompts are dialogues"
            )
            raise CalibrationError(
                f"{wants}, but the checkpoint has no chat template. Use prompts that are texts,"
                " with chat_template: false."
            )
        return self._render(self._messages(document))

    def ids(self, document: Document, text: str) -> list[int]:
        """Token ids of a document, whose text is given."""
        front = self.front if isinstance(document, str) and not self.chat_template else []
        return [*front, *self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]

    def _messages(self, document: Document) -> list[Message]:
        if not isinstance(document, str):
            return document
        return (
            turns(document)
            if self.dialogue == "hh-rlhf"
            else [{"role": "user", "content": document}]
        )

    def _render(self, messages: list[Message]) -> str:
        def strftime_now(written: str) -> str:
            self.dated = True
            return TEMPLATE_DATE.strftime(written)

        open_ended = messages[-1]["role"] == "user"
        try:
            with _time_limit(RENDER_S):
                return str(
                    self.tokenizer.apply_chat_template(
                        messages,
                        tokenize=False,
                        add_generation_prompt=open_ended,
                        strftime_now=strftime_now,
                    )
                )
        except TimeoutError as error:
            raise CalibrationError(
                f"the checkpoint's chat template takes longer than {RENDER_S} s for one prompt."
            ) from error
        except (
            Exception
        ) as error:  # a template is a program of somebody else: it may raise anything
            raise Refused(" ".join(str(error).split())[:200] or type(error).__name__) from error


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in what takes longer; for the main thread of a worker."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def turns(text: str) -> list[Message]:
    """An HH-RLHF transcript ("\\n\\nHuman: ... \\n\\nAssistant: ...") as chat messages, without
    empty turns."""
    parts = re.split(r"\n\n(Human|Assistant):", text)
    roles = {"Human": "user", "Assistant": "assistant"}
    messages_with_empty = (
        {"role": roles[role], "content": content.strip()}
        for role, content in zip(parts[1::2], parts[2::2], strict=True)
    )
    messages = in_turn([message for message in messages_with_empty if message["content"]])
    if not messages:
        raise CalibrationError(
            f"not an HH-RLHF transcript: {text[:60]!r}. Expected turns that begin with 'Human:'."
        )
    return messages


def require_rows(name: str, rows: Iterable[list[int]], embedding: int) -> None:
    """Raises CalibrationError for token ids that the model has no embedding for (`embedding`: its
    rows)."""
    highest = max((max(row) for row in rows if row), default=0)
    if highest >= embedding:
        raise CalibrationError(
            f"prompt set {name!r}: the tokenizer gives token {highest}, the model's embedding has"
            f" {embedding} rows. The tokenizer is of another model, or has tokens that were added"
            " and never trained: use the checkpoint's own tokenizer, or other prompts."
        )
