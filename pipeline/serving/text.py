"""Text to tokens and back, by the artifact's own tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from pipeline.serving.continuation import Decode
from pipeline.serving.wire import Message

TAIL = 8  # tokens of a prompt that what follows is decoded behind
PART = "\ufffd"  # what stands for a part of a character


class TemplateRefused(Exception):
    """The chat template does not take such a dialogue, or there is none."""


class Text(Protocol):
    """`size`: of the vocabulary."""

    size: int

    def encode(self, text: str) -> list[int]: ...

    def dialogue(self, messages: list[Message]) -> list[int]:
        """Up to where the assistant's answer begins. Raises TemplateRefused."""

    def decoder(self, prompt: list[int]) -> Decode:
        """For what follows the prompt, which decides about a leading space. Special tokens have no
        text."""

    def token(self, token: int) -> str:
        """Of one token alone."""


class Tokenizer:
    """transformers' tokenizer, without code of the artifact."""

    def __init__(self, artifact: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(artifact, trust_remote_code=False)
        self._backend = self._tokenizer.backend_tokenizer
        self.size = len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return ids

    def dialogue(self, messages: list[Message]) -> list[int]:
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            raise TemplateRefused("this model has no chat template; ask /v1/completions")
        said = [message.model_dump(exclude_none=True) for message in messages]
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                said, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except TemplateError as error:  # which roles it takes, the template says
            raise TemplateRefused(f"the model's chat template refuses them: {error}") from error
        return ids

    def decoder(self, prompt: list[int]) -> Decode:
        from tokenizers.decoders import DecodeStream

        tail = prompt[-TAIL:]
        whole = not self._tokenizer.decode(tail).endswith(PART)
        stream, tokenizer = DecodeStream(tail if whole else [], True), self._backend

        def decode(token: int) -> str:
            nonlocal stream
            try:
                return stream.step(tokenizer, token) or ""
            except Exception:  # bytes that became no character, as vLLM's detokenizer has it
                stream = DecodeStream([], True)
                return stream.step(tokenizer, token) or ""

        return decode

    def token(self, token: int) -> str:
        text: str = self._tokenizer.decode([token])
        return text
