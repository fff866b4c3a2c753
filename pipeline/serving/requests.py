"""What clients may ask, as the OpenAI API has it
(https://platform.openai.com/docs/api-reference/completions and /chat), with vLLM's `top_k`,
`min_p`, `repetition_penalty` and `ignore_eos`.

What this server cannot do is accepted as long as it asks for nothing (`n: 1`, `echo: false`), and
refused otherwise: an answer without it would be another than was asked for."""

from __future__ import annotations

import json
import random
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from pipeline.engines import Sampling
from pipeline.serving.wire import TO_THE_END, Message

MOST_STOPS = 4
MOST_MESSAGES = 4096
SEEDS = 2**63  # of GenAI's generator
LARGEST = 2**31 - 1


def _single(prompt: Any) -> Any:
    """OpenAI takes one prompt also as a list of one."""
    if not (isinstance(prompt, list) and prompt and isinstance(prompt[0], (str, list))):
        return prompt
    if len(prompt) > 1:
        raise ValueError("several in one request are not supported, only one")
    return prompt[0]


ONE = {"type": "string"}, {"type": "array", "items": {"type": "integer"}}
PROMPTS = {
    "anyOf": [*ONE, *({"type": "array", "items": one, "minItems": 1, "maxItems": 1} for one in ONE)]
}
Off = Literal[False] | None
One = Literal[1] | None
Nothing = Annotated[list[Any], Field(max_length=0)] | None
Empty = Annotated[dict[str, Any], Field(max_length=0)] | None
Word = Annotated[str, Field(min_length=1)]
Stops = Annotated[list[Word], Field(max_length=MOST_STOPS)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Asked):
    include_usage: bool = False
    continuous_usage_stats: Off = None
    include_obfuscation: bool | None = None


class JsonSchema(_Asked):
    name: str = ""
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class PlainText(_Asked):
    type: Literal["text"]
    schema_text: ClassVar[None] = None


class JsonObject(_Asked):
    type: Literal["json_object"]
    schema_text: ClassVar[str] = json.dumps({"type": "object"})


class OfSchema(_Asked):
    type: Literal["json_schema"]
    json_schema: JsonSchema

    @property
    def schema_text(self) -> str:
        return json.dumps(self.json_schema.schema_)


ResponseFormat = Annotated[PlainText | JsonObject | OfSchema, Field(discriminator="type")]


class Generation(_Asked):
    """What both endpoints know. `model` must be the one that is served."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=LARGEST)] | None = None
    min_p: Annotated[float, Field(ge=0, lt=1)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    stop: Word | Stops | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    n: One = None
    logit_bias: Empty = None
    # about the client or the account: of no meaning here
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    def _sampling(self, max_tokens: int, logprobs: bool) -> Sampling:
        """OpenAI's temperature is 1 unless said; without a seed each request draws its own."""
        return Sampling(
            max_tokens=max_tokens,
            ignore_eos=bool(self.ignore_eos),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            seed=random.randrange(SEEDS) if self.seed is None else self.seed % SEEDS,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            json_schema=self.response_format.schema_text if self.response_format else None,
            logprobs=logprobs,
        )


class CompletionRequest(Generation):
    """`logprobs`: 0, those of the tokens alone; the engine tells no others."""

    prompt: Annotated[str | list[int], BeforeValidator(_single), WithJsonSchema(PROMPTS)]
    logprobs: Literal[0] | None = None
    best_of: One = None
    echo: Off = None
    suffix: Literal[""] | None = None

    @property
    def question(self) -> str | list[int]:
        return self.prompt

    @property
    def sampling(self) -> Sampling:
        return self._sampling(self.max_tokens or 16, self.logprobs is not None)


class TextPart(_Asked):
    type: Literal["text"]
    text: str


class ChatMessage(_Asked):
    """Also an answer of this server, as the official client gives it back."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | list[TextPart]
    name: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Nothing = None
    annotations: Nothing = None

    @property
    def message(self) -> Message:
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return Message(role=self.role, content=text, name=self.name)


class ChatRequest(Generation):
    """`logprobs` as of the completions: `top_logprobs` may be 0 only."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Literal[0] | None = None
    tools: Nothing = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None

    @property
    def question(self) -> list[Message]:
        return [one.message for one in self.messages]

    @property
    def sampling(self) -> Sampling:
        most = self.max_completion_tokens or self.max_tokens or TO_THE_END
        return self._sampling(most, bool(self.logprobs))
