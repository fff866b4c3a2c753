"""OpenVINO's paged-attention model, run as GenAI's ContinuousBatchingPipeline runs it, with the
logits asked for kept.

GenAI gives the log-probability of given tokens only. Divergence needs the whole vocabulary, so the
same transformation (SDPA to paged attention), the same plug-in properties and the same kind of KV
cache are used here; the contract suite holds the two to the same numbers. As GenAI does, only the
rows asked for go through the output projection. Prompts that begin alike share the KV cache blocks
of what they share, as in GenAI's prefix caching; here it is certain that they are whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from pipeline.engines import Prompt, Visit, cores, piece_rows
from pipeline.engines.scoring import common, families
from pipeline.recipe import Serve

DEVICE = "CPU"
ASKED = "asked"  # our own input of the model: which of the batch's tokens the logits are wanted of
BLOCK = 32  # tokens of one KV cache block, as the CPU plug-in lays it out
# Nothing of the engine's own precision: what is left is what quantization did to the weights.
NEUTRAL = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}


class Slice(NamedTuple):
    """Tokens start..stop of one prompt, put to the model in one batch; the logits of asked..stop
    are wanted."""

    prompt: int
    start: int
    stop: int
    asked: int


class PagedModel:
    """Scores only. `properties` are those of the plug-in besides the number of threads."""

    def __init__(
        self, artifact: Path, serve: Serve, properties: dict[str, Any] | None = None
    ) -> None:
        self._artifact, self._serve = artifact, serve
        self._properties = {"INFERENCE_NUM_THREADS": len(cores(serve)), **(properties or {})}

    def __enter__(self) -> Self:
        import openvino
        from openvino._offline_transformations import paged_attention_transformation

        self._ov = openvino
        core = openvino.Core()
        model = core.read_model(self._artifact / "openvino_model.xml")
        paged_attention_transformation(model)
        _project_what_is_asked(model)
        self._compiled = core.compile_model(model, DEVICE, self._properties)
        self._request = self._compiled.create_infer_request()
        self._piece = piece_rows(self._compiled.output("logits").partial_shape[-1].get_length())
        tokens, sequences = (
            self._serve.max_num_batched_tokens + self._serve.max_model_len,
            self._serve.max_num_seqs,
        )
        self._blocks = 2 * (
            -(-tokens // BLOCK) + sequences
        )  # for one batch, and for what it shares with an earlier one
        for port in self._compiled.inputs:
            if "_cache." in port.any_name:
                shape = [
                    self._blocks if size.is_dynamic else size.get_length()
                    for size in port.partial_shape
                ]
                self._request.set_tensor(
                    port.any_name, openvino.Tensor(port.element_type, openvino.Shape(shape))
                )
        return self

    def __exit__(self, *exc: object) -> None:
        del self._request, self._compiled

    def distributions(self, prompts: list[Prompt], visit: Visit) -> None:
        """The first of each family, then the others, which begin with its blocks as far as they
        share them."""
        self._free = list(range(self._blocks))
        for wave in _waves(families(prompts), prompts, self._serve):
            kept = self._run(prompts, {family[0]: [] for family in wave}, visit, keep=True)
            others = {
                number: kept[family[0]][: _shared_blocks(prompts[family[0]], prompts[number])]
                for family in wave
                for number in family[1:]
            }
            self._run(prompts, others, visit, keep=False)
            self._free += [block for table in kept.values() for block in table]

    def _run(
        self, prompts: list[Prompt], tables: dict[int, list[int]], visit: Visit, keep: bool
    ) -> dict[int, list[int]]:
        """Computes prompts from behind the shared blocks of their tables on. Returns the whole
        tables if it is to `keep` them."""
        import torch

        shared = {number: len(table) for number, table in tables.items()}
        starts = {number: count * BLOCK for number, count in shared.items()}
        for batch in batches(starts, prompts, self._serve, 4 * self._piece):
            for part in batch:
                table = tables[part.prompt]
                table += [self._free.pop() for _ in range(-(-part.stop // BLOCK) - len(table))]
            logits, row = torch.from_numpy(self._infer(prompts, batch, tables)), 0
            for part in batch:
                for first in range(part.asked, part.stop, self._piece):
                    count = min(self._piece, part.stop - first)
                    visit(part.prompt, first, logits[row : row + count].log_softmax(-1).numpy())
                    row += count
                if part.stop == len(prompts[part.prompt].ids) and not keep:
                    self._free += tables.pop(part.prompt)[shared[part.prompt] :]
        return tables

    def _infer(
        self, prompts: list[Prompt], batch: list[Slice], tables: dict[int, list[int]]
    ) -> Any:
        """Logits [rows asked for, vocabulary], float32; valid until the next call."""
        blocks = [tables[part.prompt] for part in batch]
        self._set(
            "input_ids",
            "int64",
            [t for part in batch for t in prompts[part.prompt].ids[part.start : part.stop]],
        )
        self._set(
            "position_ids", "int64", [p for part in batch for p in range(part.start, part.stop)]
        )
        self._set("past_lens", "int32", [part.start for part in batch])
        begins = _sums([part.stop - part.start for part in batch])
        self._set("subsequence_begins", "int32", begins)
        self._set("block_indices", "int32", [block for table in blocks for block in table])
        self._set("block_indices_begins", "int32", _sums([len(table) for table in blocks]))
        self._set("max_context_len", "int32", max(part.stop for part in batch))
        asked = [
            begin + p - part.start
            for begin, part in zip(begins, batch, strict=False)
            for p in range(part.asked, part.stop)
        ]
        self._set(ASKED, "int64", asked or [0])  # a projection of nothing is not tried
        self._request.infer()
        return self._request.get_tensor("logits").data[:, 0, :]

    def _set(self, name: str, dtype: str, values: Any) -> None:
        import numpy

        self._request.set_tensor(name, self._ov.Tensor(numpy.array(values, dtype=dtype)))


class NeutralModel(PagedModel):
    """The `weights` view of an OpenVINO artifact: float32 arithmetic and cache, no quantized
    activations."""

    def __init__(self, artifact: Path, serve: Serve) -> None:
        super().__init__(artifact, serve, NEUTRAL)


def batches(
    starts: dict[int, int], prompts: list[Prompt], serve: Serve, rows: int
) -> Iterator[list[Slice]]:
    """Prompts from these starts on, in batches of at most max_num_batched_tokens, max_num_seqs and
    `rows` asked for, in order.

    A prompt may go on in the next batch.
    """
    batch: list[Slice] = []
    room, asked_room = serve.max_num_batched_tokens, rows
    for number, begin in starts.items():
        (ids, first), start = prompts[number], begin
        while start < len(ids):
            asked = max(first, start)
            stop = min(len(ids), start + room, asked + asked_room)
            part = Slice(number, start, stop, min(asked, stop))
            batch.append(part)
            room -= stop - start
            asked_room -= stop - part.asked
            start = stop
            if room == 0 or asked_room == 0 or len(batch) == serve.max_num_seqs:
                yield batch
                batch, room, asked_room = [], serve.max_num_batched_tokens, rows
    if batch:
        yield batch


def _waves(
    every: list[list[int]], prompts: list[Prompt], serve: Serve
) -> Iterator[list[list[int]]]:
    """Families whose first prompts fill one batch (or one family), since their blocks stay until
    the others are done."""
    wave: list[list[int]] = []
    room = serve.max_num_batched_tokens
    for family in every:
        length = len(prompts[family[0]].ids)
        if wave and (length > room or len(wave) == serve.max_num_seqs):
            yield wave
            wave, room = [], serve.max_num_batched_tokens
        wave.append(family)
        room -= length
    if wave:
        yield wave


def _shared_blocks(leader: Prompt, prompt: Prompt) -> int:
    """Whole blocks that both begin with, before the first position that `prompt` asks for."""
    return min(common(leader.ids, prompt.ids), prompt.first) // BLOCK


def _project_what_is_asked(model: Any) -> None:
    """Takes the rows of the input ASKED out of the hidden states before the output projection,
    where GenAI takes its own."""
    import numpy
    from openvino import opset13

    node = model.output("logits").get_node().input_value(0).get_node()
    while (
        node.get_type_name() != "MatMul"
    ):  # what a family does to its logits is done to each by itself
        node = node.input_value(0).get_node()
    asked = opset13.parameter([-1], numpy.int64, name=ASKED)
    asked.output(0).set_names({ASKED})
    node.input(0).replace_source_output(
        opset13.gather(node.input_value(0), asked, numpy.int64(0)).output(0)
    )
    model.add_parameters([asked])
    model.validate_nodes_and_infer_types()


def _sums(counts: list[int]) -> list[int]:
    total, sums = 0, [0]
    for count in counts:
        total += count
        sums.append(total)
    return sums
