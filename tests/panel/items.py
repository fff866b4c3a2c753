"""The panel: what is done to a model, what the result claims to be, and whether it must be caught.

Most damages are made on the checkpoint and then taken to an engine by the project's own export;
those that only exist in a quantized artifact are made on one that the real tools wrote. `claims` is
the precision whose limits it is held to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Item:
    """`made`: checkpoint (damage it, export it), artifact (damage a finished one), recipe (another
    setting of the real tool), serve (another way to serve a finished one), given (made
    elsewhere)."""

    name: str
    made: str
    claims: str
    engine: str = "openvino"
    of: str = (
        ""  # artifact and serve: the base recipe's variant; checkpoint and artifact: see `how`
    )
    how: str = ""  # the function in checkpoint_damage, artifact_damage or shipped_damage
    settings: dict[str, Any] = field(
        default_factory=dict
    )  # recipe: variant keys; serve: serve keys
    fast: bool = False  # part of the subset that `make test` runs
    long: bool = (
        False  # shows at long context alone: judged under recipes with evaluate.long_context
    )
    shipped: str = ""  # the public report of a bug that was released: repository#number
    twin: str = ""  # of a shipped bug: the honest item that differs from it by the fault alone

    @property
    def variant(self) -> dict[str, Any]:
        """The claim, as a variant of a recipe."""
        if self.claims == "bf16":
            return {"engine": self.engine}
        quantizer = {"openvino": "openvino", "vllm": "gptq"}[self.engine]
        if self.made == "checkpoint" and self.claims in ("int4", "int2"):
            quantizer = "rounding"  # what a damaged 4-bit arithmetic left in a 16-bit checkpoint
        if self.of.startswith("awq") or self.made == "given":
            quantizer = "awq"
        return {
            "engine": self.engine,
            "quantizer": quantizer,
            "weights": self.claims,
            **(self.settings if self.made == "recipe" else {}),
        }


def _checkpoint(how: str, claims: str, **more: Any) -> Item:
    return Item(name=how.replace("_", "-"), made="checkpoint", how=how, claims=claims, **more)


def _artifact(how: str, of: str, **more: Any) -> Item:
    claims = of.rsplit("-", 1)[1]
    engine = "openvino" if of.startswith("ov") else "vllm"
    return Item(
        name=f"{how.replace('_', '-')}-{of}",
        made="artifact",
        how=how,
        of=of,
        claims=claims,
        engine=engine,
        **more,
    )


def _shipped(report: str, twin: str, how: str, of: str, **more: Any) -> Item:
    return _artifact(how, of, shipped=report, twin=twin, **more)


DAMAGES = [
    _checkpoint("zeroed_layer", "int8", fast=True),
    _checkpoint("transposed_projection", "int8"),
    _checkpoint("clipped_embeddings", "int8"),
    _checkpoint("rope_base", "int8"),
    _checkpoint("norm_epsilon", "bf16", engine="vllm"),
    _checkpoint("nan_block", "bf16", engine="vllm"),
    _checkpoint("lm_head_4bit", "int4"),
    _checkpoint("early_eos", "int8", fast=True),
    _checkpoint("rounded_2bit", "int4"),
    _checkpoint("rounded_3bit", "int4"),
    _checkpoint("group_order_off_by_one", "int4"),
    _checkpoint("swapped_scales", "int4"),
    _checkpoint("wrong_zero_point", "int4"),
    _checkpoint("one_wrong_zero_point", "int4", fast=True),
    _checkpoint("foreign_shard", "bf16", engine="vllm"),
    _checkpoint("stale_checkpoint", "int8"),
    _checkpoint("repeated_layer", "int8"),
    _checkpoint("permuted_heads", "int8"),
    _checkpoint("swapped_gate_up", "int8"),
    _checkpoint("scaled_layer", "int8"),
    _artifact("ir_swapped_scales", "ov-int8"),
    _artifact("ir_zero_point", "ov-int8"),
    _artifact("ir_zero_point", "ov-int4"),
    _artifact("ir_saturated_activations", "ov-int8", fast=True),
    _artifact("kv_cache_4bit", "ov-int8"),
    _artifact("torn_bin", "ov-int8"),
    _artifact("nan_constant", "ov-bf16"),
    _artifact("bos_dropped", "ov-int8"),
    _artifact("wrong_tokenizer", "ov-int8"),
    _shipped("hiyouga/LlamaFactory#5476", "int8-asymmetric", "wrong_chat_template", "ov-int8"),
    _artifact("gptq_swapped_scales", "gptq-int4"),
    _artifact("gptq_zero_point", "gptq-int4"),
    _artifact("awq_nibble_order", "awq-int4"),
    Item("calibrated-on-one-token", made="calibration", claims="int4", engine="vllm"),
    Item(
        "autoawq-on-a-cpu",
        "given",
        "int4",
        "vllm",
        how="autoawq",
        shipped="mit-han-lab/llm-awq#327",
        twin="awq",
    ),
    _shipped(
        "vllm-project/llm-compressor#2939", "gptq", "names_without_a_reader", "gptq-int4", fast=True
    ),
    _shipped("vllm-project/llm-compressor#2826", "gptq", "scales_of_nothing", "gptq-int4"),
    _shipped(
        "vllm-project/vllm#7374",
        "groups-in-order-gptq-int4",
        "g_idx_ignored",
        "gptq-int4",
        fast=True,
    ),
    _shipped("unslothai/unsloth#2744", "int8-asymmetric", "chat_template_dropped", "ov-int8"),
    _shipped(
        "vllm-project/llm-compressor#2153",
        "int8-asymmetric",
        "tokenizer_pattern",
        "ov-int8",
        fast=True,
    ),
    _shipped("intel/auto-round#707", "int8-asymmetric", "one_activation_scale", "ov-int8"),
    _shipped(
        "verl-project/verl#4435",
        "key-ranges-of-long-prompts-ov-int8",
        "key_ranges_of_short_prompts",
        "ov-int8",
        long=True,
    ),
    _checkpoint(
        "tied_embedding_4bit",
        "int4",
        shipped="huggingface/transformers#37905",
        twin="int4-plain",
        fast=True,
    ),
]
BENIGN = [
    _checkpoint("resharded", "bf16", engine="vllm"),
    _checkpoint("float16", "bf16", fast=True),
    _checkpoint("float32", "bf16"),
    _checkpoint("untied_head", "bf16"),
    Item("float16-on-vllm", made="checkpoint", how="float16", claims="bf16", engine="vllm"),
    Item("re-export", made="recipe", claims="bf16"),
    Item("other-engine", made="recipe", claims="bf16", engine="vllm"),
    Item("int8-asymmetric", made="recipe", claims="int8", fast=True),
    Item("int8-symmetric", made="recipe", claims="int8", settings={"symmetric": True}),
    Item("int4-plain", made="recipe", claims="int4", settings={"group_size": 128}),
    Item(
        "int4-awq",
        made="recipe",
        claims="int4",
        settings={"group_size": 128, "awq": True, "scale_estimation": True},
    ),
    Item("gptq", made="serve", of="gptq-int4", claims="int4", engine="vllm"),
    Item("awq", made="serve", of="awq-int4", claims="int4", engine="vllm"),
    _artifact("groups_in_order", "gptq-int4"),
    _artifact("key_ranges_of_long_prompts", "ov-int8", long=True),
    Item("batch-of-one", made="serve", of="ov-int8", claims="int8", settings={"max_num_seqs": 1}),
    Item(
        "small-batches",
        made="serve",
        of="ov-int8",
        claims="int8",
        settings={"max_num_batched_tokens": 512},
    ),
    Item("one-thread", made="serve", of="ov-int8", claims="int8", settings={"threads": 1}),
    Item("int4-on-one-thread", made="serve", of="ov-int4", claims="int4", settings={"threads": 1}),
    Item(
        "small-batches-on-vllm",
        made="serve",
        of="vllm-bf16",
        claims="bf16",
        engine="vllm",
        settings={"max_num_batched_tokens": 512},
    ),
    Item(
        "one-thread-on-vllm",
        made="serve",
        of="vllm-bf16",
        claims="bf16",
        engine="vllm",
        settings={"threads": 1},
    ),
]
