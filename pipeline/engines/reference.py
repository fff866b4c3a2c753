"""The reference: the source checkpoint in torch, float32. What every variant is compared with."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from pipeline.engines import Prompt, Sampling, Step, Visit, cores, eos_ids, piece_rows
from pipeline.engines.tree import Tree, batches, trees
from pipeline.errors import CheckpointError
from pipeline.recipe import Serve
from pipeline.source import architecture

# enough for the products; twice as many no longer stay in the caches and took twice the processor
# time
BATCH_TOKENS = 1024
BATCH_BYTES = 1 << 28  # of the activations of one batch


class Place(NamedTuple):
    """A position of a prompt that is asked for, and the row of the batch's flat hidden states [rows
    * length] that it is."""

    prompt: int
    position: int
    row: int


class ReferenceEngine:
    def __init__(self, artifact: Path, serve: Serve) -> None:
        self._artifact, self._serve = artifact, serve
        self._queue: dict[int, tuple[list[int], Sampling]] = {}

    def __enter__(self) -> Self:
        import torch
        from transformers import GenerationConfig

        torch.set_num_threads(len(cores(self._serve)))
        self._torch = torch
        self._model = self._load().eval()
        self._head = _head(self._model)
        # Greedy and nothing else: penalties that the checkpoint suggests for chatting are no part
        # of the comparison.
        self._model.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=eos_ids(self._artifact) or None
        )
        return self

    def __exit__(self, *exc: object) -> None:
        del self._model, self._head

    def _load(self) -> Any:
        """The source in float32. Raises CheckpointError for missing weights, which transformers
        fills with random numbers."""
        from transformers import AutoModelForCausalLM

        model, loading_info = AutoModelForCausalLM.from_pretrained(
            self._artifact,
            dtype=self._torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # to find them in the answer, and refuse them below
            output_loading_info=True,
        )
        if wrong := architecture.differences(loading_info):
            raise CheckpointError(
                f"{self._artifact}: its weights are not those of {type(model).__name__}: {wrong}."
            )
        return model

    def distributions(self, prompts: list[Prompt], visit: Visit) -> None:
        """Trees of what prompts share, in right-padded batches of similar length; the rows asked
        for through the projection."""
        longest = max((len(prompt.ids) for prompt in prompts), default=0)
        made = trees(prompts, shared=_bears_trees(self._model, longest))
        size = piece_rows(self._model.get_output_embeddings().weight.shape[0])
        with self._torch.inference_mode():
            for batch in batches(made, self._batch_tokens()):
                hidden = self._hidden(batch)
                asked = _places(batch, prompts, hidden.shape[1])
                while piece := list(itertools.islice(asked, size)):
                    self._visit(hidden.flatten(0, 1), piece, visit)

    def _batch_tokens(self) -> int:
        """The widest activations of a decoder layer, all in memory at once: three of the MLP's,
        about eight of the rest."""
        config = self._model.config
        width = (
            3 * getattr(config, "intermediate_size", 4 * config.hidden_size)
            + 8 * config.hidden_size
        )
        return min(BATCH_TOKENS, BATCH_BYTES // (4 * int(width)))

    def _hidden(self, batch: list[Tree]) -> Any:
        """Last hidden states [rows, length, hidden]. Without branches, causal attention alone keeps
        the padding out of sight."""
        torch, length = self._torch, max(len(tree.tokens) for tree in batch)
        ids = torch.tensor([tree.tokens + [0] * (length - len(tree.tokens)) for tree in batch])
        if not any(tree.branches for tree in batch):
            return self._model.base_model(ids, use_cache=False).last_hidden_state
        positions = torch.tensor(
            [tree.positions + [0] * (length - len(tree.positions)) for tree in batch]
        )
        sees = torch.from_numpy(np.stack([tree.sees(length) for tree in batch])[:, None])
        mask = torch.zeros(sees.shape).masked_fill_(~sees, torch.finfo(torch.float32).min)
        return self._model.base_model(
            ids, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state

    def _visit(self, hidden: Any, piece: list[Place], visit: Visit) -> None:
        rows = self._torch.tensor([place.row for place in piece])
        logits = self._head(inputs_embeds=hidden[rows][None]).logits[0]
        logits -= logits.logsumexp(-1, keepdim=True)
        logprobs, first = logits.numpy(), 0
        for prompt, places in itertools.groupby(piece, key=lambda place: place.prompt):
            visited = list(places)
            visit(prompt, visited[0].position, logprobs[first : first + len(visited)])
            first += len(visited)

    def echo(self, ids: list[int]) -> list[float]:
        """Straight from transformers."""
        with self._torch.inference_mode():
            logprobs = (
                self._model(self._torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
            )
        return [float(logprobs[place, token]) for place, token in enumerate(ids[1:])]

    def submit(self, key: int, prompt: list[int], sampling: Sampling) -> None:
        sampling.require_greedy("the reference")
        self._queue[key] = prompt, sampling

    def cancel(self, key: int) -> None:
        self._queue.pop(key, None)

    def step(self) -> list[Step]:
        """One whole request: the reference is not a server."""
        if not self._queue:
            return []
        key = next(iter(self._queue))
        prompt, sampling = self._queue.pop(key)
        ids = self._torch.tensor([prompt])
        with self._torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=self._torch.ones_like(ids),
                max_new_tokens=sampling.max_tokens,
                min_new_tokens=sampling.max_tokens if sampling.ignore_eos else None,
            )
        return [Step(key, out[0, len(prompt) :].tolist(), True)]

    def kv_cache_use(self) -> float:
        """None that is bounded."""
        return 0.0

    def settings(self) -> dict[str, Any]:
        return {"device": "cpu", "dtype": "float32", "threads": self._torch.get_num_threads()}


def _places(batch: list[Tree], prompts: list[Prompt], length: int) -> Iterator[Place]:
    for row, tree in enumerate(batch):
        for number, path in tree.paths.items():
            for position in range(prompts[number].first, len(path)):
                yield Place(number, position, row * length + path[position])


def _head(model: Any) -> Any:
    """The model from its last hidden states on, given as `inputs_embeds`: output projection, and
    what its family does behind it."""
    import torch
    from transformers.modeling_outputs import MoeModelOutputWithPast

    class Given(torch.nn.Module):  # type: ignore[misc]
        def forward(self, *_: Any, inputs_embeds: Any, **__: Any) -> Any:
            return MoeModelOutputWithPast(last_hidden_state=inputs_embeds)

    head = copy.copy(model)
    head._modules = {**model._modules, model.base_model_prefix: Given()}
    return head


def _bears_trees(model: Any, longest: int) -> bool:
    """A mask of our own says all only where attention is full: no window shorter than a prompt, no
    state, no ALiBi."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    return (
        kinds <= {"full_attention", "sliding_attention"}
        and not (window and longest > window)
        and not getattr(config, "alibi", False)
        and "position_ids" in inspect.signature(model.base_model.forward).parameters
    )
