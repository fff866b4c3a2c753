"""What clients are answered: OpenAI's objects, whole or in chunks
(https://platform.openai.com/docs/api-reference)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.serving.text import PART
from pipeline.serving.wire import Token


@dataclass
class Usage:
    """Tokens of one request, counted as they come."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def to_json(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


class Shape(Protocol):
    """An endpoint's words. `first`: of the first chunk."""

    prefix: str
    whole_kind: str
    chunk_kind: str

    def whole(self, text: str, tokens: Sequence[Token]) -> dict[str, Any]: ...

    def chunk(self, text: str, tokens: Sequence[Token], first: bool) -> dict[str, Any]: ...


@dataclass
class Completion:
    prefix: str = "cmpl"
    whole_kind: str = "text_completion"
    chunk_kind: str = "text_completion"
    _offset: int = 0

    def whole(self, text: str, tokens: Sequence[Token]) -> dict[str, Any]:
        return {"text": text, "logprobs": self._logprobs(tokens) if tokens else None}

    def chunk(self, text: str, tokens: Sequence[Token], first: bool) -> dict[str, Any]:
        return self.whole(text, tokens)

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token.text)
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": None,
            "text_offset": offsets,
        }


@dataclass
class Chat:
    prefix: str = "chatcmpl"
    whole_kind: str = "chat.completion"
    chunk_kind: str = "chat.completion.chunk"

    def whole(self, text: str, tokens: Sequence[Token]) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"message": message, "logprobs": self._logprobs(tokens)}

    def chunk(self, text: str, tokens: Sequence[Token], first: bool) -> dict[str, Any]:
        role = {"role": "assistant"} if first else {}
        return {"delta": {**role, "content": text}, "logprobs": self._logprobs(tokens)}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not tokens:
            return None
        return {
            "content": [
                {
                    "token": token.text,
                    "logprob": token.logprob,
                    # of a part of a character the text does not tell them
                    "bytes": None if PART in token.text else list(token.text.encode()),
                    "top_logprobs": [],
                }
                for token in tokens
            ],
            "refusal": None,
        }


@dataclass
class Reply:
    """One answer of a model under one id."""

    shape: Shape
    model: str
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        self._id = f"{self.shape.prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())

    def whole(self, text: str, tokens: Sequence[Token], finish: str) -> dict[str, Any]:
        choice = {"index": 0, **self.shape.whole(text, tokens), "finish_reason": finish}
        return self._object(self.shape.whole_kind, [choice]) | {"usage": self.usage.to_json()}

    def chunk(
        self, text: str, tokens: Sequence[Token], finish: str | None, first: bool
    ) -> dict[str, Any]:
        choice = {"index": 0, **self.shape.chunk(text, tokens, first), "finish_reason": finish}
        return self._object(self.shape.chunk_kind, [choice])

    def last(self) -> dict[str, Any]:
        """The chunk with the usage, which has no choice."""
        return self._object(self.shape.chunk_kind, []) | {"usage": self.usage.to_json()}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self.model,
            "choices": choices,
        }
