"""The reference: the source checkpoint in torch, float32. What every variant is compared with."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from pipeline.engines import Scored, Step, Visit, cores, eos_ids
from pipeline.recipe import Serve

BATCH_TOKENS = 4096  # bounds the float32 log-softmax: tokens x vocabulary x 4 bytes


class ReferenceEngine:
    def __init__(self, artifact: Path, serve: Serve) -> None:
        self._artifact, self._serve = artifact, serve
        self._queue: deque[tuple[int, list[int], int, bool]] = deque()

    def __enter__(self) -> Self:
        import torch
        from transformers import GenerationConfig

        torch.set_num_threads(len(cores(self._serve)))
        self._torch = torch
        self._model = self._load().eval()
        # Greedy and nothing else: penalties that the checkpoint suggests for chatting are no part of the comparison.
        self._model.generation_config = GenerationConfig(do_sample=False, eos_token_id=eos_ids(self._artifact) or None)
        return self

    def __exit__(self, *exc: object) -> None:
        del self._model

    def _load(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(
            self._artifact, dtype=self._torch.float32, use_safetensors=True, trust_remote_code=False
        )

    def distributions(self, sequences: list[list[int]], visit: Visit) -> None:
        """Right-padded batches of similar length; causal attention keeps the padding out of every real position."""
        torch = self._torch
        for batch in _batches([len(ids) for ids in sequences]):
            longest = max(len(sequences[number]) for number in batch)
            ids = torch.tensor([sequences[number] + [0] * (longest - len(sequences[number])) for number in batch])
            with torch.inference_mode():
                logprobs = self._model(ids, use_cache=False).logits.log_softmax(-1)
            for row, number in enumerate(batch):
                if len(sequences[number]) > 1:
                    visit(number, 0, logprobs[row, : len(sequences[number]) - 1].numpy())

    def score(self, sequences: list[list[int]]) -> list[Scored]:
        found: dict[int, Scored] = {}

        def visit(number: int, _: int, logprobs: Any) -> None:
            targets = sequences[number][1:]
            given = logprobs[range(len(targets)), targets]
            found[number] = Scored(given.tolist(), (given >= logprobs.max(-1)).tolist())

        self.distributions(sequences, visit)
        return [found.get(number, Scored([], [])) for number in range(len(sequences))]

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


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Numbers of the sequences in batches of at most BATCH_TOKENS with the padding, shortest first."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and lengths[number] * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
