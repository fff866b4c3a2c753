"""OpenVINO's paged-attention model, run as GenAI's ContinuousBatchingPipeline runs it, with every position's logits kept.

GenAI gives the log-probability of given tokens only. Divergence needs the whole vocabulary, so the same transformation
(SDPA to paged attention), the same plug-in properties and the same kind of KV cache are used here; the contract suite
holds the two to the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from pipeline.engines import Visit, cores
from pipeline.recipe import Serve

DEVICE = "CPU"
BLOCK = 32  # tokens of one KV cache block, as the CPU plug-in lays it out
# Nothing of the engine's own precision: what is left is what quantization did to the weights.
NEUTRAL = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}


class Slice(NamedTuple):
    """Tokens start..stop of one sequence, put to the model in one batch."""

    sequence: int
    start: int
    stop: int


class PagedModel:
    """Scores only. `properties` are those of the plug-in besides the number of threads."""

    def __init__(self, artifact: Path, serve: Serve, properties: dict[str, Any] | None = None) -> None:
        self._artifact, self._serve = artifact, serve
        self._properties = {"INFERENCE_NUM_THREADS": len(cores(serve)), **(properties or {})}

    def __enter__(self) -> Self:
        import openvino
        from openvino._offline_transformations import paged_attention_transformation

        self._ov = openvino
        core = openvino.Core()
        model = core.read_model(self._artifact / "openvino_model.xml")
        paged_attention_transformation(model)
        self._compiled = core.compile_model(model, DEVICE, self._properties)
        self._request = self._compiled.create_infer_request()
        self._blocks = -(-(self._serve.max_num_batched_tokens + self._serve.max_model_len) // BLOCK) + self._serve.max_num_seqs
        for port in self._compiled.inputs:
            if "_cache." in port.any_name:
                shape = [self._blocks if size.is_dynamic else size.get_length() for size in port.partial_shape]
                self._request.set_tensor(port.any_name, openvino.Tensor(port.element_type, openvino.Shape(shape)))
        return self

    def __exit__(self, *exc: object) -> None:
        del self._request, self._compiled

    def distributions(self, sequences: list[list[int]], visit: Visit) -> None:
        """See Engine.distributions."""
        import torch

        free = list(range(self._blocks))
        held: dict[int, list[int]] = {}
        for batch in batches([len(ids) for ids in sequences], self._serve):
            for part in batch:
                owned = held.setdefault(part.sequence, [])
                owned += [free.pop() for _ in range(-(-part.stop // BLOCK) - len(owned))]
            logits = torch.from_numpy(self._infer(sequences, batch, held))
            first = 0
            for part in batch:
                last = part.stop == len(sequences[part.sequence])
                count = part.stop - part.start
                rows = logits[first : first + count - last]  # nothing follows the last token
                if len(rows):
                    visit(part.sequence, part.start, rows.log_softmax(-1).numpy())
                first += count
                if last:
                    free += held.pop(part.sequence)

    def _infer(self, sequences: list[list[int]], batch: list[Slice], held: dict[int, list[int]]) -> Any:
        """Logits [tokens of the batch, vocabulary], float32; valid until the next call."""
        tables = [held[part.sequence] for part in batch]
        self._set("input_ids", "int64", [t for part in batch for t in sequences[part.sequence][part.start : part.stop]])
        self._set("position_ids", "int64", [p for part in batch for p in range(part.start, part.stop)])
        self._set("past_lens", "int32", [part.start for part in batch])
        self._set("subsequence_begins", "int32", _sums([part.stop - part.start for part in batch]))
        self._set("block_indices", "int32", [block for table in tables for block in table])
        self._set("block_indices_begins", "int32", _sums([len(table) for table in tables]))
        self._set("max_context_len", "int32", max(part.stop for part in batch))
        self._request.infer()
        return self._request.get_tensor("logits").data[:, 0, :]

    def _set(self, name: str, dtype: str, values: Any) -> None:
        import numpy

        self._request.set_tensor(name, self._ov.Tensor(numpy.array(values, dtype=dtype)))


class NeutralModel(PagedModel):
    """The `weights` view of an OpenVINO artifact: float32 arithmetic and cache, no quantized activations."""

    def __init__(self, artifact: Path, serve: Serve) -> None:
        super().__init__(artifact, serve, NEUTRAL)


def batches(lengths: list[int], serve: Serve) -> Iterator[list[Slice]]:
    """Fills each batch up to max_num_batched_tokens and max_num_seqs in order; a sequence may go on in the next batch."""
    batch: list[Slice] = []
    room = serve.max_num_batched_tokens
    for sequence, length in enumerate(lengths):
        start = 0
        while start < length:
            stop = min(length, start + room)
            batch.append(Slice(sequence, start, stop))
            room -= stop - start
            start = stop
            if room == 0 or len(batch) == serve.max_num_seqs:
                yield batch
                batch, room = [], serve.max_num_batched_tokens
    if batch:
        yield batch


def _sums(counts: list[int]) -> list[int]:
    total, sums = 0, [0]
    for count in counts:
        total += count
        sums.append(total)
    return sums
