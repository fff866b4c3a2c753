"""Engines: what scores, what serves. One file each; this is the protocol and the table.

An engine is a context manager over one artifact folder. It hands over next-token distributions
where they are asked for, and it decodes through its own continuous batching: `submit` requests,
then `step` until all are done. Every caller (texts, lm-eval by `scoring.score`, load check,
benchmark) goes through these verbs, so an artifact is measured the way it is served."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from pipeline import capabilities
from pipeline.capabilities import Scorer
from pipeline.errors import EvaluationError
from pipeline.recipe import Serve


class Prompt(NamedTuple):
    """Token ids put to the model, and the first position whose next-token distribution is asked
    for; so are all that follow."""

    ids: list[int]
    first: int = 0


@dataclass(frozen=True)
class Sampling:
    """How a request is continued, in vLLM's words and under its meanings: at `temperature` 0
    greedily, at `top_k` 0 from the whole vocabulary. `json_schema`: what the text must satisfy;
    `logprobs`: those of the tokens are wanted."""

    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    json_schema: str | None = None
    logprobs: bool = False

    def require_greedy(self, engine: str, tells_logprobs: bool = False) -> None:
        """Raises EvaluationError where more is asked of an engine that only decodes greedily."""
        plain = replace(
            self,
            temperature=0.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            repetition_penalty=1.0,
            json_schema=None,
            logprobs=self.logprobs and tells_logprobs,
        )
        if self != plain:
            raise EvaluationError(f"{engine} decodes greedily only; asked for {self}")


class Step(NamedTuple):
    """New token ids of one request; `done` once it is finished, `error` if it failed. `logprobs`:
    of these tokens in nats, by the model's own distribution, where they were asked for. `lost`: the
    engine failed, with all that it had, and can be asked again."""

    key: int
    token_ids: list[int]
    done: bool
    error: str | None = None
    logprobs: Sequence[float] = ()
    lost: bool = False


# (number of the prompt, position of the first row's token, log-probabilities [rows, vocabulary] in
# float32 nats). Row k is the distribution of token position + k + 1. The array is only valid during
# the call: keep no reference.
Visit = Callable[[int, int, Any], None]

PIECE_BYTES = 1 << 26  # of one array that a Visit gets; the largest temporary beside it is as large


def piece_rows(vocabulary: int) -> int:
    """How many float32 distributions are worked on at once."""
    return max(1, PIECE_BYTES // (4 * vocabulary))


class Distributions(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def distributions(self, prompts: list[Prompt], visit: Visit) -> None:
        """Hands over the full next-token distribution at every position asked for, in pieces of at
        most `piece_rows`.

        Pieces of one prompt come in order, prompts in any. What prompts share may be computed once;
        what is not asked for is not projected onto the vocabulary."""


class Engine(Distributions, Protocol):
    def echo(self, ids: list[int]) -> list[float]:
        """Log-probabilities in nats of tokens 1.. as the engine itself tells them: what
        `distributions` is held against."""

    def submit(self, key: int, prompt: list[int], sampling: Sampling) -> None:
        """Queues a request. Raises EvaluationError for a sampling that the engine has not."""

    def cancel(self, key: int) -> None:
        """Ends a request that is queued or runs; no step speaks of it any more."""

    def step(self) -> list[Step]:
        """Runs the engine once; returns what came out of it: nothing while a long prompt is taken
        in parts, or when nothing is queued."""

    def settings(self) -> dict[str, Any]:
        """The settings that the engine really runs under."""


class Served(Engine, Protocol):
    """What our own server asks besides."""

    def kv_cache_use(self) -> float:
        """The share of the KV cache, 0 to 1, that the last step used; 0 with no request."""


FAKE = "pipeline.engines.fake:FakeEngine"
REFERENCE = "pipeline.engines.reference:ReferenceEngine"
# What scores: the engines that serve, and two that do not.
ENGINES: dict[str, Scorer] = {
    "fake": Scorer(FAKE, FAKE, FAKE, "control", ()),
    "reference": Scorer(REFERENCE, REFERENCE, REFERENCE, "openvino", ("torch", "transformers")),
    **capabilities.ENGINES,
}


def open_engine(name: str, artifact: Path, serve: Serve) -> Engine:
    """The engine by name, over an artifact folder; enter it to load."""
    engine: Engine = _load(ENGINES[name].scores)(artifact, serve)
    return engine


def open_serving(name: str, artifact: Path, serve: Serve) -> Engine:
    """The engine in the processes that it serves with; enter it to load."""
    engine: Engine = _load(ENGINES[name].serves)(artifact, serve)
    return engine


def open_served(name: str, artifact: Path, serve: Serve) -> Served:
    """As `open_serving`, of an engine that has no server but ours."""
    engine: Served = _load(ENGINES[name].serves)(artifact, serve)
    return engine


def open_weights(name: str, artifact: Path, serve: Serve) -> Distributions:
    """The artifact's weights without the engine's precision; enter it to load."""
    model: Distributions = _load(ENGINES[name].weights)(artifact, serve)
    return model


def _load(where: str) -> Any:
    module, cls = where.split(":")
    return getattr(importlib.import_module(module), cls)


def cores(serve: Serve) -> list[int]:
    """The cores to run on: the first `threads` of those that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[: serve.threads] if serve.threads else allowed


def eos_ids(artifact: Path) -> list[int]:
    """All token ids that end a generation, from the checkpoint's own generation settings, else its
    config."""
    for name in ("generation_config.json", "config.json"):
        file = artifact / name
        ids = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
        if ids is not None:
            return ids if isinstance(ids, list) else [ids]
    return []


def generate(
    engine: Engine, prompts: list[list[int]], max_tokens: list[int], stop_at_eos: bool
) -> list[list[int]]:
    """Greedy continuation of every prompt. Raises EvaluationError if the engine fails one."""
    answers: list[list[int]] = [[] for _ in prompts]
    open_keys = set(range(len(prompts)))
    for key, prompt in enumerate(prompts):
        engine.submit(key, prompt, Sampling(max_tokens[key], ignore_eos=not stop_at_eos))
    while open_keys:
        for step in engine.step():
            if step.error:
                raise EvaluationError(
                    f"the engine failed on a prompt of {len(prompts[step.key])} tokens:"
                    f" {step.error}"
                )
            answers[step.key].extend(step.token_ids)
            if step.done:
                open_keys.discard(step.key)
    return answers
