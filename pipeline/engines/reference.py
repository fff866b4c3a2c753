"""The reference: the source checkpoint in torch, float32. What every variant is compared with."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, Self

from pipeline.engines import Scored, Step, cores, eos_ids
from pipeline.recipe import Serve

BATCH_TOKENS = 4096  # bounds the float32 log-softmax: tokens x vocabulary x 4 bytes


class ReferenceEngine:
    def __init__(self, artifact: Path, serve: Serve) -> None:
        self._artifact, self._serve = artifact, serve
        self._queue: deque[tuple[int, list[int], int, bool]] = deque()

    def __enter__(self) -> Self:
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig

        torch.set_num_threads(len(cores(self._serve)))
        self._torch = torch
        self._model = AutoModelForCausalLM.from_pretrained(
            self._artifact, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        ).eval()
        # Greedy and nothing else: penalties that the checkpoint suggests for chatting are no part of the comparison.
        self._model.generation_config = GenerationConfig(do_sample=False, eos_token_id=eos_ids(self._artifact) or None)
        return self

    def __exit__(self, *exc: object) -> None:
        del self._model

    def score(self, sequences: list[list[int]]) -> list[Scored]:
        """Right-padded batches of similar length; causal attention keeps the padding out of every real position."""
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        results: dict[int, Scored] = {}
        while order:
            longest = 0
            batch: list[int] = []
            while order and (not batch or max(longest, len(sequences[order[0]])) * (len(batch) + 1) <= BATCH_TOKENS):
                batch.append(order.pop(0))
                longest = len(sequences[batch[-1]])
            results.update(zip(batch, self._score_batch([sequences[i] for i in batch], longest), strict=True))
        return [results[i] for i in range(len(sequences))]

    def _score_batch(self, batch: list[list[int]], longest: int) -> list[Scored]:
        torch = self._torch
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
        with torch.inference_mode():
            logits = self._model(ids, use_cache=False).logits[:, :-1]
            chosen = logits.gather(-1, ids[:, 1:, None]).squeeze(-1)
            logprobs = (chosen - logits.logsumexp(-1)).tolist()
            greedy = (chosen >= logits.max(-1).values).tolist()
        return [Scored(p[: len(row) - 1], g[: len(row) - 1]) for p, g, row in zip(logprobs, greedy, batch, strict=True)]

    def submit(self, key: int, prompt: list[int], max_tokens: int, stop_at_eos: bool) -> None:
        self._queue.append((key, prompt, max_tokens, stop_at_eos))

    def step(self) -> list[Step]:
        """One whole request: the reference is not a server."""
        if not self._queue:
            return []
        key, prompt, max_tokens, stop_at_eos = self._queue.popleft()
        ids = self._torch.tensor([prompt])
        with self._torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=self._torch.ones_like(ids),
                max_new_tokens=max_tokens,
                min_new_tokens=None if stop_at_eos else max_tokens,
            )
        return [Step(key, out[0, len(prompt) :].tolist(), True)]

    def settings(self) -> dict[str, Any]:
        return {"device": "cpu", "dtype": "float32", "threads": self._torch.get_num_threads()}
