"""The engines that serve: a row each. What one can do is asked of its row, not of its name.

A new engine is a row here and a file in pipeline/engines with its classes; artifacts that are
stored in a way of their own need a reader in pipeline/formats besides, and a tool that makes them a
line in pipeline/quantizers/table.py. An engine with a server over HTTP has a module like
pipeline/engines/vllm_server besides; one without names quantgate's own among its `servers`."""

from __future__ import annotations

from dataclasses import dataclass

IR, SAFETENSORS = "openvino_ir", "safetensors"  # how an artifact's files are read


@dataclass(frozen=True)
class Scorer:
    """Classes as "module:class": `scores` as deployed, in process; `serves` in the processes that
    it serves with; `weights` the artifact's weights without the engine's precision. All run in
    `environment`; `packages` are named with its figures."""

    scores: str
    serves: str
    weights: str
    environment: str
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Passes:
    """`start_s`: imports, lm-eval, a load of the smallest model; `serial_ns`: of one core, a
    parameter, for loading, compiling and the load check; `share`: of the machine's product rate in
    `precision`, by the stored weights, what is not named computing like bf16."""

    start_s: float
    serial_ns: float
    precision: str
    share: dict[str, float]


@dataclass(frozen=True)
class Costs:
    """What `plan` takes an engine for (docs/plan.md): the two views, memory without a model and of
    logits at most, a decoding step besides reading the weights, a load. `keeps_quantized`: in
    float32 arithmetic too; `takes_cache`: all of it at the start; `compiling_bytes`: then,
    unless the recipe says `serve.eager`."""

    deployed: Passes
    weights: Passes
    base_bytes: float
    logits_bytes: float
    step_s: float
    load_s: float
    keeps_quantized: bool
    takes_cache: bool
    compiling_bytes: float


@dataclass(frozen=True)
class Engine(Scorer):
    """What an engine can do.

    `targets`: devices an artifact may be made for; `driven_on`: those it is driven on here, the
    usual one first. `own_precision`: it may compute and cache in another precision than the
    model's; `own_kv_cache`: which one is set by variant. `shares_prefixes`: a prefix that requests
    have in common is computed once. `servers`: by name the modules that say how its servers are
    started, the usual one first; `takes_token_ids`: servers of it that somebody else started take a
    prompt as token ids. `needs`: an instruction set of x86 by what is run with it alone, weights or
    `bf16 precision`. `fuses`: layers of a block, which must be stored alike;
    `divisor`: of all features of a quantized layer, 1: none. `quantizer`: the usual one;
    `own_words`: names of quantizers that are keys of a variant elsewhere; `ladder`, `faster`: the
    rungs of `ladder: auto`, and those besides for goal fastest. `hub_library`: under which the hub
    finds its repositories; `snippet`: "module:function" of the card's code."""

    name: str
    title: str
    artifact_format: str
    targets: tuple[str, ...]
    driven_on: tuple[str, ...]
    own_precision: bool
    own_kv_cache: bool
    shares_prefixes: bool
    servers: dict[str, str]
    takes_token_ids: bool
    needs: dict[str, str]
    fuses: bool
    divisor: int
    quantizer: str | None
    own_words: tuple[str, ...]
    ladder: tuple[str, ...]
    faster: tuple[str, ...]
    hub_library: str
    snippet: str
    costs: Costs

    def device(self, machine: str) -> str:
        """Where it runs on a machine whose device for vLLM is this."""
        return machine if machine in self.driven_on else self.driven_on[0]


ENGINES = {
    "openvino": Engine(
        scores="pipeline.engines.openvino:OpenVinoEngine",
        serves="pipeline.engines.openvino:OpenVinoEngine",
        weights="pipeline.engines.paged:NeutralModel",
        environment="openvino",
        packages=("openvino", "openvino-genai"),
        name="OpenVINO",
        title="OpenVINO GenAI",
        artifact_format=IR,
        targets=("cpu", "xpu"),
        driven_on=("cpu",),
        own_precision=True,
        own_kv_cache=True,
        shares_prefixes=True,
        servers={
            "own": "pipeline.engines.own_server",
            "ovms": "pipeline.engines.ovms_server",
        },
        takes_token_ids=False,
        needs={"bf16 precision": "avx512_bf16"},
        fuses=False,
        divisor=1,
        quantizer="openvino",
        own_words=(),
        ladder=(
            "int4 g128",
            "int4 g64",
            "int4 g128 awq+se",
            "int4 g64 awq+se",
            "int4 g64 ratio 0.8 awq+se",
            "int8",
        ),
        faster=("int8 activations int8 smooth_quant 0.8",),
        hub_library="openvino",
        snippet="pipeline.report.snippets:openvino",
        costs=Costs(
            deployed=Passes(15, 40, "bfloat16", {"bf16": 0.5}),
            weights=Passes(2, 10, "float32", {"bf16": 0.8}),
            base_bytes=0.65e9,
            logits_bytes=0.67e9,
            step_s=0.003,
            load_s=6,
            keeps_quantized=True,
            takes_cache=False,
            compiling_bytes=0,
        ),
    ),
    "vllm": Engine(
        scores="pipeline.engines.vllm:VllmEngine",
        serves="pipeline.engines.vllm:ServingVllmEngine",
        weights="pipeline.engines.dequantized:DequantizedEngine",
        environment="vllm",
        packages=("vllm", "torch", "transformers"),
        name="vLLM",
        title="vLLM",
        artifact_format=SAFETENSORS,
        targets=("cpu", "cuda", "xpu"),
        driven_on=("cpu", "cuda"),
        own_precision=False,
        own_kv_cache=False,
        shares_prefixes=False,
        servers={"vllm": "pipeline.engines.vllm_server"},
        takes_token_ids=True,
        needs={"int4": "avx512f"},  # its AVX2 build has no cpu_gemm_wna16
        fuses=True,
        divisor=32,  # of its kernels
        quantizer=None,
        own_words=("awq", "gptq"),
        ladder=(
            "compressed-tensors g128",
            "auto-round g128 format awq",
            "compressed-tensors g64",
            "auto-round g64 format awq",
            "compressed-tensors g32",
            "compressed-tensors int8 activations int8",
        ),
        faster=(),
        hub_library="transformers",
        snippet="pipeline.report.snippets:vllm",
        costs=Costs(
            deployed=Passes(
                18, 40, "bfloat16", {"bf16": 0.25, "int4": 0.15}
            ),  # whose 4-bit kernels are for AMX
            weights=Passes(3, 20, "float32", {"bf16": 0.65}),
            base_bytes=1.5e9,
            logits_bytes=0.13e9,
            step_s=0.010,
            load_s=25,
            keeps_quantized=False,
            takes_cache=True,
            compiling_bytes=1e9,
        ),
    ),
}
