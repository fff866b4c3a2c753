"""What the server and the process of its engine tell each other: a line of JSON each."""

from __future__ import annotations

from typing import Literal

from pipeline.engines import Sampling
from pipeline.recipe import Serve, Strict

Finish = Literal["stop", "length"]
FAILED = "The server failed on this request."  # what a client is told of what nobody foresaw
ENGINE_FAILED = "engine_failed"  # a refusal's code where the request is not to blame
TO_THE_END = 0  # max_tokens of a request that goes on as long as the model's length allows


class Job(Strict):
    """What is served, and where. `digest`: of the artifact's files."""

    engine: str
    artifact: str
    serve: Serve
    name: str
    digest: str
    host: str
    port: int


class Message(Strict):
    role: str
    content: str
    name: str | None = None


class Ask(Strict):
    """`prompt`: a text, token ids, or a dialogue, which the model's chat template makes a text
    of."""

    key: int
    prompt: str | list[int] | list[Message]
    sampling: Sampling
    stop: list[str]


class Order(Strict):
    """Either a request, or the key of one whose client went away."""

    ask: Ask | None = None
    cancel: int | None = None


class Token(Strict):
    """`text` is that of the token alone; `logprob` in nats."""

    text: str
    logprob: float


class Refusal(Strict):
    """`code` is OpenAI's."""

    message: str
    code: str


class Answer(Strict):
    """Of one request: first its number of prompt tokens, then text as it comes. `tokens`: how many
    this answer stands for, `each`: what they are, if log-probabilities were asked for; `finish`
    ends it, and so does a refusal."""

    key: int
    prompt_tokens: int = 0
    text: str = ""
    tokens: int = 0
    each: tuple[Token, ...] = ()
    finish: Finish | None = None
    refusal: Refusal | None = None

    @property
    def ends(self) -> bool:
        return self.finish is not None or self.refusal is not None


class Report(Strict):
    """What the engine process says: `ready` once, then answers, and the share of the KV cache that
    they took."""

    ready: bool = False
    answers: tuple[Answer, ...] = ()
    kv_cache_use: float = 0.0
