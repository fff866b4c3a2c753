"""The requests that an engine works on: from what was asked to tokens, and from tokens to
answers."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import engines
from pipeline.engines import Sampling, Served, Step
from pipeline.errors import EvaluationError
from pipeline.runtime import crash
from pipeline.serving.continuation import Continuation
from pipeline.serving.text import TemplateRefused, Text
from pipeline.serving.wire import (
    ENGINE_FAILED,
    FAILED,
    TO_THE_END,
    Answer,
    Ask,
    Finish,
    Message,
    Refusal,
    Token,
)

MOST_TRIES = 2
BLAMED = "; the JSON schema of this request may be why"
TOO_LONG, INVALID = "context_length_exceeded", "invalid_value"


class Refused(Exception):
    def __init__(self, message: str, code: str = INVALID) -> None:
        super().__init__(message)
        self.refusal = Refusal(message=message, code=code)


@dataclass
class Running:
    """`tries`: how often it was put to the engine; `begun`: some of it was answered."""

    ids: list[int]
    continuation: Continuation
    sampling: Sampling
    tries: int = 1
    begun: bool = False

    @property
    def may_go_again(self) -> bool:
        """Nobody saw anything of it, and it is not likely what the engine failed at."""
        return self.tries < MOST_TRIES and not self.begun and self.sampling.json_schema is None


class Conversations:
    """By their keys. `step` is to be called as long as any is `running`; `longest`: tokens of a
    prompt and its continuation."""

    def __init__(self, engine: Served, text: Text, artifact: Path, longest: int) -> None:
        self._engine, self._text, self._longest = engine, text, longest
        self._eos = set(engines.eos_ids(artifact))
        self.running: dict[int, Running] = {}

    def begin(self, ask: Ask) -> Answer:
        try:
            ids = self._ids(ask.prompt)
            sampling = self._within(ids, ask.sampling)
            self._engine.submit(ask.key, ids, sampling)
        except Refused as refused:
            return Answer(key=ask.key, refusal=refused.refusal)
        except EvaluationError as error:
            return Answer(key=ask.key, refusal=Refusal(message=str(error), code=INVALID))
        except Exception as error:  # of one request, and no reason to end those of others
            print(f"quantgate: a request failed: {crash.place(error)}", file=sys.stderr)
            return Answer(key=ask.key, refusal=Refusal(message=FAILED, code=ENGINE_FAILED))
        continuation = Continuation(self._text.decoder(ids), ask.stop)
        self.running[ask.key] = Running(ids, continuation, sampling)
        return Answer(key=ask.key, prompt_tokens=len(ids))

    def cancel(self, key: int) -> None:
        if self.running.pop(key, None):
            self._engine.cancel(key)

    def step(self) -> list[Answer]:
        steps = self._engine.step()
        lost = [step for step in steps if step.lost]
        again = [step.key for step in lost if self.running[step.key].may_go_again]
        if lost:
            self._log(lost, len(again))
        ended = [self._answer(step) for step in steps if step.key not in again]
        return [*ended, *filter(None, map(self._again, again))]

    def _log(self, lost: list[Step], again: int) -> None:
        said = f"{lost[0].error}: {again} requests begin again, {len(lost) - again} end"
        print(f"quantgate: {said}", file=sys.stderr, flush=True)

    def _again(self, key: int) -> Answer | None:
        """Its refusal, if the engine does not take it any more."""
        running = self.running[key]
        running.tries += 1
        try:
            self._engine.submit(key, running.ids, running.sampling)
        except Exception as error:  # an engine that does not come back
            del self.running[key]
            place = crash.place(error)
            print(f"quantgate: a request could not begin again: {place}", file=sys.stderr)
            return Answer(key=key, refusal=Refusal(message=FAILED, code=ENGINE_FAILED))
        return None

    def kv_cache_use(self) -> float:
        """The share of the engine's KV cache that is taken, 0 to 1."""
        return self._engine.kv_cache_use()

    def _ids(self, prompt: str | list[int] | list[Message]) -> list[int]:
        if isinstance(prompt, str):
            ids = self._text.encode(prompt)
        elif messages := [one for one in prompt if isinstance(one, Message)]:
            try:
                ids = self._text.dialogue(messages)
            except TemplateRefused as error:
                raise Refused(f"messages: {error}") from error
        else:
            ids = [token for token in prompt if isinstance(token, int)]
        strange = [token for token in ids if not 0 <= token < self._text.size]
        if strange:
            raise Refused(
                f"prompt: found the token id {strange[0]}, expected ids from 0 to"
                f" {self._text.size - 1}"
            )
        if not ids:
            raise Refused("prompt: found no token, expected at least one")
        return ids

    def _within(self, ids: list[int], sampling: Sampling) -> Sampling:
        room, wanted = self._longest - len(ids), sampling.max_tokens
        if room < max(wanted, 1):
            more = f" and {wanted} to be generated" if wanted else ""
            raise Refused(
                f"This model's maximum context length is {self._longest} tokens: found"
                f" {len(ids)} in the prompt{more}. Shorten the prompt, or ask for fewer.",
                TOO_LONG,
            )
        return replace(sampling, max_tokens=room) if wanted == TO_THE_END else sampling

    def _answer(self, step: Step) -> Answer:
        running = self.running[step.key]
        if step.error:
            del self.running[step.key]
            blamed = step.lost and running.sampling.json_schema is not None
            message = step.error + (BLAMED if blamed else "")
            return Answer(key=step.key, refusal=Refusal(message=message, code=ENGINE_FAILED))
        running.begun = True
        text = running.continuation.add(step.token_ids)
        finish: Finish | None = None
        if running.continuation.stopped:
            finish = "stop"
            self._engine.cancel(step.key)
        elif step.done:
            text += running.continuation.rest()
            at_eos = not running.sampling.ignore_eos and self._eos & {*step.token_ids[-1:]}
            finish = "stop" if at_eos else "length"
        if finish:
            del self.running[step.key]
        each = self._each(step) if running.sampling.logprobs else ()
        return Answer(key=step.key, text=text, tokens=len(step.token_ids), each=each, finish=finish)

    def _each(self, step: Step) -> tuple[Token, ...]:
        pairs = zip(step.token_ids, step.logprobs, strict=True)
        return tuple(
            Token(text=self._text.token(token), logprob=logprob) for token, logprob in pairs
        )
