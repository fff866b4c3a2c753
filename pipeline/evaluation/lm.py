"""lm-eval's model interface over an Engine: the same tokenization, truncation and scoring for every
engine.

lm-eval's own back-ends differ in windowing and in the engine settings they allow (and none scores
on OpenVINO GenAI); with one class over the engine's own verbs, two engines differ in nothing but
their numbers."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from tqdm import tqdm

from pipeline.engines import Engine, generate
from pipeline.engines.scoring import Request, score
from pipeline.errors import EvaluationError
from pipeline.source import tokens

# requests handed over at once; long enough for continuous batching, short enough for progress
CHUNK = 512
MAX_GEN_TOKENS = 256


@dataclass
class Noted:
    """`tokens`: SHA-256 over all token ids put to the engine; `generated_tokens`: length of the
    answer, if one was generated."""

    tokens: Any
    generated_tokens: int | None = None


class EngineLM(TemplateLM):  # type: ignore[misc]  # lm-eval ships no types
    """`needs_greedy` names the tasks whose metric asks whether the continuation is the greedy one
    (LAMBADA)."""

    def __init__(
        self, engine: Engine, tokenizer: Any, max_length: int, needs_greedy: set[str]
    ) -> None:
        super().__init__()
        self._engine, self._tokenizer = engine, tokenizer
        self._front = tokens.added(tokenizer).front
        self._max_length, self._needs_greedy = max_length, needs_greedy
        self.cut = 0  # prompts that were longer than the model may see, and lost their beginning
        self._noted: dict[tuple[str, int], Noted] = {}

    def noted(self, task: str, number: int) -> Noted:
        """What was really put to the engine for an item, by its task and number in the sample."""
        return self._noted[task, number]

    def _note(self, request: Instance, *ids: list[int]) -> Noted:
        key = (str(request.task_name), int(request.doc_id or 0))
        noted = self._noted.setdefault(key, Noted(hashlib.sha256()))
        noted.tokens.update(json.dumps(ids).encode())
        return noted

    @property
    def eot_token_id(self) -> int:
        return int(self._tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self._tokenizer.bos_token_id
        return int(self._tokenizer.eos_token_id if bos is None else bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self._tokenizer.name_or_path)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """With special tokens: what the tokenizer puts in front, and no end token, which a context
        does not have."""
        special = True if add_special_tokens is None else add_special_tokens
        front = self._front if special else []
        return [
            *front,
            *self._tokenizer(string, add_special_tokens=False, verbose=False)["input_ids"],
        ]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        asked = []
        for request in requests:
            context, continuation = request.args
            if context:
                ids, target = self._encode_pair(context, continuation)
            else:
                ids, target = (
                    [self.prefix_token_id],
                    self.tok_encode(continuation, add_special_tokens=False),
                )
            self._note(request, ids, target)
            asked.append(self._request(ids, target, greedy=request.task_name in self._needs_greedy))
        return self._score(asked)

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        return self._score(
            [self._request(context, target, greedy=False) for _, context, target in requests]
        )

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Disjoint windows of max_length, each after the last token of the one before (the first
        after BOS)."""
        totals = []
        for request in requests:
            ids = [
                self.prefix_token_id,
                *self.tok_encode(request.args[0], add_special_tokens=False),
            ]
            self._note(request, ids)
            step = self._max_length - 1
            rows = [ids[i : i + self._max_length] for i in range(0, len(ids) - 1, step)]
            scored = score(self._engine, [Request(row[:1], row[1:]) for row in rows])
            totals.append(_finite(sum(sum(answer.logprobs) for answer in scored)))
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        answers: list[str] = []
        with tqdm(total=len(requests), desc="generate", unit="request", mininterval=2) as bar:
            for start in range(0, len(requests), CHUNK):
                chunk = requests[start : start + CHUNK]
                answers += self._generate_chunk(chunk)
                bar.update(len(chunk))
        return answers

    def _generate_chunk(self, requests: list[Instance]) -> list[str]:
        prompts, limits, stops, notes = [], [], [], []
        for request in requests:
            context, options = request.args
            if options.get("do_sample") and options.get("temperature", 0) > 0:
                raise EvaluationError(
                    f"a task asks for sampling ({options}); quantgate compares greedy answers only."
                )
            limit = int(options.get("max_gen_toks", MAX_GEN_TOKENS))
            prompts.append(self._prompt(context, limit))
            notes.append(self._note(request, prompts[-1]))
            limits.append(limit)
            until = options.get("until", [])
            stops.append([until] if isinstance(until, str) else until)
        texts = [self._tokenizer.decode(ids, skip_special_tokens=True) for ids in
                 generate(self._engine, prompts, limits, stop_at_eos=True)]  # fmt: skip
        answers = [_cut(text, stop) for text, stop in zip(texts, stops, strict=True)]
        for note, answer in zip(notes, answers, strict=True):
            note.generated_tokens = len(self.tok_encode(answer, add_special_tokens=False))
        return answers

    def _prompt(self, context: str, answer: int) -> list[int]:
        """The context's end, as much as fits with `answer` tokens. Raises EvaluationError if
        nothing does."""
        room = self._max_length - answer
        if room < 1:
            raise EvaluationError(
                f"a task generates up to {answer} tokens (max_gen_toks), of {self._max_length} that"
                " prompt and answer may have together (serve.max_model_len less one): nothing is"
                " left of the prompt. Set a larger serve.max_model_len."
            )
        ids = self.tok_encode(context)
        self.cut += len(ids) > room
        return ids[-room:] or [self.prefix_token_id]

    def _request(self, context: list[int], target: list[int], greedy: bool) -> Request:
        """The context's end, as much as fits with the continuation."""
        if not target or len(target) >= self._max_length:
            raise EvaluationError(
                f"a task item has a continuation of {len(target)} tokens; expected 1 to"
                f" {self._max_length - 1} (serve.max_model_len less two)."
            )
        room = self._max_length - len(target)
        self.cut += len(context) > room
        return Request(context[-room:], target, greedy)

    def _score(self, requests: list[Request]) -> list[tuple[float, bool]]:
        """In the order of the tokens, so that those which begin alike come to the engine
        together."""
        order = sorted(range(len(requests)), key=lambda index: requests[index])
        answers: dict[int, tuple[float, bool]] = {}
        with tqdm(
            total=len(requests), desc="log-likelihoods", unit="request", mininterval=2
        ) as bar:
            for start in range(0, len(order), CHUNK):
                part = order[start : start + CHUNK]
                scored = score(self._engine, [requests[index] for index in part])
                answers |= {
                    i: (_finite(sum(s.logprobs)), bool(s.greedy))
                    for i, s in zip(part, scored, strict=True)
                }
                bar.update(len(part))
        return [answers[index] for index in range(len(requests))]


def _finite(value: float) -> float:
    """lm-eval takes the arg-max over the choices, which would turn a NaN into a right or wrong
    answer."""
    if not math.isfinite(value):
        raise EvaluationError(
            f"the engine gave a log-likelihood of {value} for a task item. The artifact is damaged."
        )
    return value


def _cut(text: str, stops: list[str]) -> str:
    """The text up to the first stop string."""
    positions = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(positions)] if positions else text
