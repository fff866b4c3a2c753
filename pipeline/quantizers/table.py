"""What each quantizer can make and which engine serves it on which device: as it was tried, not as
it is promised.

`TOOLS` is who makes it; `SERVED` what came out and was served, each line with the values that its
settings may take; `REFUSED` what a tool or an engine does not do, with the reason and the nearest
that works. docs/quantizers.md is generated from here, and the contract tests make every example.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.capabilities import ENGINES, IR, SAFETENSORS

Values = (
    tuple[Any, ...] | None
)  # the values that a setting may take; None: any that the recipe accepts

GROUPS = (128, 64, 32)  # that vLLM's kernels read
FLAG = (False, True)
NO_GPU = "Made here, and its weights compared; not served: no GPU was at hand."
CPU, CUDA = "cpu", "cuda"


@dataclass(frozen=True)
class Tool:
    """Who makes a quantizer's artifacts. `method` is the format of a tool that writes several."""

    module: str
    environment: str
    packages: tuple[str, ...]
    answered_by: str
    method: str = ""
    simulated: bool = False
    note: str = ""


@dataclass(frozen=True)
class Served:
    """A line of what works; `note` says what to know.

    `examples` are the settings that the contract tests take: each value of `settings` is in one of
    them, and the first alone goes through the model families. `varies` are the files that differ
    when the same is made again on the same machine, and why; empty: none does."""

    quantizer: str
    weights: str
    engine: str
    devices: tuple[str, ...]
    settings: dict[str, Values]
    examples: tuple[dict[str, Any], ...]
    note: str = ""
    varies: dict[str, str] = field(default_factory=dict)

    def asked(self) -> list[dict[str, Any]]:
        """The examples, as a recipe asks for them."""
        who = {"engine": self.engine, "quantizer": self.quantizer, "weights": self.weights}
        return [{**who, **example} for example in self.examples]


@dataclass(frozen=True)
class Refused:
    """A line of what does not: settings in `when` with these values (None: any that is given), for
    the reason `why`.

    `use` is the nearest that works. With `models` (the model_type of config.json) it is about these
    families only: see families.py."""

    quantizers: tuple[str, ...]
    engine: str
    when: dict[str, Values]
    why: str
    use: str
    devices: tuple[str, ...] = (CPU, CUDA)
    models: tuple[str, ...] = ()


_GPTQ = Tool(
    "pipeline.quantizers.gptqmodel",
    "gptq",
    ("gptqmodel", "torch", "transformers"),
    "GPTQModel",
    method="gptq",
)
_AWQ = replace(_GPTQ, method="awq")
OPENVINO = Tool(
    module="pipeline.quantizers.openvino",
    environment="openvino",
    packages=("optimum-intel", "nncf", "openvino", "openvino-tokenizers", "torch", "transformers"),
    answered_by="optimum-intel with NNCF",
)
UNQUANTIZED = {  # by how the artifact is stored
    IR: Tool(OPENVINO.module, OPENVINO.environment, OPENVINO.packages, "optimum-intel"),
    SAFETENSORS: Tool("pipeline.quantizers.unquantized", "vllm", (), "copy of the source"),
}
TOOLS = {
    "openvino": OPENVINO,
    "neural-compressor": Tool(
        module="pipeline.quantizers.neural",
        environment="openvino",
        packages=(
            "neural-compressor",
            "optimum-intel",
            "openvino",
            "openvino-tokenizers",
            "torch",
            "transformers",
        ),
        answered_by="Intel Neural Compressor",
    ),
    "gptq": _GPTQ,
    "awq": _AWQ,
    "compressed-tensors": Tool(
        module="pipeline.quantizers.compressed",
        environment="compressed",
        packages=("llmcompressor", "compressed-tensors", "torch", "transformers"),
        answered_by="llm-compressor",
    ),
    "auto-round": Tool(
        module="pipeline.quantizers.autoround",
        environment="compressed",
        packages=("auto-round", "compressed-tensors", "torch", "transformers"),
        answered_by="AutoRound",
    ),
    "auto-gptq": replace(
        _GPTQ,
        note=(
            "auto-gptq 0.7.1 is at its end of life and refuses to quantize without CUDA; GPTQModel,"
            " its maintained successor, made this artifact in the same format."
        ),
    ),
    "autoawq": replace(
        _AWQ,
        note=(
            "autoawq 0.2.9 is at its end of life and writes broken models on a CPU; GPTQModel, its"
            " maintained successor, made this artifact in the same format."
        ),
    ),
    "rounding": Tool(
        module="pipeline.quantizers.rounding",
        environment="openvino",
        packages=("torch", "safetensors", "optimum-intel"),
        answered_by="quantgate",
        simulated=True,
        note=(
            "Simulated: weights rounded to the nearest level and stored as 16-bit floats. A"
            " baseline for the gate's own tests, never smaller or faster."
        ),
    ),
}

_MIXED: dict[str, Values] = {
    "ratio": None,
    "backup": ("int8_asym", "int8_sym", "none"),
    "keep": None,
    "int8_layers": None,
}
_ON_DATA: dict[str, Values] = {"awq": FLAG, "scale_estimation": FLAG}
_NNCF: dict[str, Values] = {"group_size": None, **_ON_DATA, **_MIXED}
_GPTQ_SETTINGS: dict[str, Values] = {
    "group_size": (*GROUPS, -1),
    "symmetric": (True,),
    "desc_act": (False,),
    "keep": None,
}
_GPTQ_EXAMPLES: tuple[dict[str, Any], ...] = (
    {},
    {"group_size": 64, "symmetric": True, "desc_act": False, "keep": ["first"]},
    {"group_size": 128},
    {"group_size": -1},
)
_GROUPED: dict[str, Values] = {"group_size": GROUPS, "symmetric": (True,), "keep": None}
_TUNED: dict[str, Values] = {"iterations": None}
_SIMULATED: dict[str, Values] = {"group_size": None}
_BOTH = (CPU, CUDA)
_STATIC = "Static: activations calibrated on the recipe's prompts."


def _int4_examples(**method: Any) -> tuple[dict[str, Any], ...]:
    """Of a line for vLLM whose settings are `method` and those of _GROUPED."""
    return (
        method,
        {**method, "group_size": 64, "symmetric": True, "keep": ["last"]},
        {**method, "group_size": 32},
    )


def _tuned_examples(layout: str) -> tuple[dict[str, Any], ...]:
    """Of AutoRound: two of fewer steps, which take less time."""
    first, *others = _int4_examples(format=layout)
    return first, *({**example, "iterations": 20} for example in others)


SERVED = (
    Served(
        "openvino",
        "int8",
        "openvino",
        (CPU,),
        {"symmetric": FLAG, "keep": None},
        ({"symmetric": True}, {"symmetric": False, "keep": ["first"]}),
    ),
    Served(
        "openvino",
        "int8",
        "openvino",
        (CPU,),
        {"activations": ("int8",), "symmetric": FLAG, "smooth_quant": None, "keep": None},
        (
            {"activations": "int8", "smooth_quant": 0.8},
            {"activations": "int8", "symmetric": True, "keep": ["first"]},
            {"activations": "int8", "symmetric": False},
        ),
        _STATIC,
    ),
    Served(
        "openvino",
        "int4",
        "openvino",
        (CPU,),
        {**_NNCF, "symmetric": FLAG, "gptq": (False,), "lora_correction": FLAG},
        (
            {"group_size": 64, "awq": True, "scale_estimation": True, "backup": "int8_asym"},
            {
                "group_size": 32,
                "awq": False,
                "symmetric": True,
                "lora_correction": True,
                "ratio": 0.8,
                "backup": "int8_sym",
            },
            {
                "group_size": -1,
                "scale_estimation": False,
                "symmetric": False,
                "gptq": False,
                "ratio": 0.8,
                "backup": "none",
            },
            {
                "awq": True,
                "lora_correction": False,
                "keep": ["first"],
                "int8_layers": ["*.down_proj"],
            },
        ),
    ),
    Served(
        "openvino",
        "int4",
        "openvino",
        (CPU,),
        {**_NNCF, "symmetric": FLAG, "gptq": (True,)},
        (
            {"group_size": 64, "gptq": True, "backup": "int8_asym"},
            {
                "gptq": True,
                "awq": True,
                "scale_estimation": True,
                "symmetric": True,
                "ratio": 0.8,
                "backup": "int8_sym",
            },
            {
                "gptq": True,
                "awq": False,
                "scale_estimation": False,
                "symmetric": False,
                "ratio": 0.8,
                "backup": "none",
            },
            {"gptq": True, "keep": ["first"], "int8_layers": ["last"]},
        ),
    ),
    Served(
        "openvino",
        "nf4",
        "openvino",
        (CPU,),
        {**_NNCF, "gptq": FLAG},
        (
            {"group_size": 64, "scale_estimation": True, "backup": "int8_asym"},
            {
                "gptq": True,
                "awq": True,
                "scale_estimation": False,
                "ratio": 0.8,
                "backup": "int8_sym",
            },
            {"gptq": False, "awq": False, "ratio": 0.8, "backup": "none"},
            {"keep": ["first"], "int8_layers": ["last"]},
        ),
    ),
    Served(
        "openvino",
        "mxfp4",
        "openvino",
        (CPU,),
        {"group_size": (32,), **_MIXED},
        (
            {"backup": "int8_asym"},
            {"ratio": 0.8, "backup": "int8_sym"},
            {"ratio": 0.8, "backup": "none"},
            {"keep": ["first"], "int8_layers": ["last"]},
        ),
    ),
    Served(
        "neural-compressor",
        "int8",
        "openvino",
        (CPU,),
        {"activations": ("int8",), "keep": None},
        ({"activations": "int8"}, {"activations": "int8", "keep": ["first"]}),
        _STATIC,
    ),
    *(
        Served(
            "neural-compressor",
            "int4",
            "vllm",
            _BOTH,
            {"method": (method,), **_GROUPED},
            _int4_examples(method=method),
            "In GPTQ's layout.",
        )
        for method in ("gptq", "rtn")
    ),
    Served("gptq", "int4", "vllm", _BOTH, _GPTQ_SETTINGS, _GPTQ_EXAMPLES),
    Served(
        "gptq",
        "int4",
        "vllm",
        (CPU,),
        {**_GPTQ_SETTINGS, "group_size": (-1,), "desc_act": (True,)},
        (
            {"group_size": -1, "desc_act": True},
            {"group_size": -1, "desc_act": True, "symmetric": True, "keep": ["last"]},
        ),
    ),
    Served("gptq", "int8", "vllm", (CUDA,), _GPTQ_SETTINGS, _GPTQ_EXAMPLES, NO_GPU),
    Served(
        "awq",
        "int4",
        "vllm",
        _BOTH,
        {**_GROUPED, "symmetric": FLAG},
        (
            {},
            {"group_size": 64, "symmetric": True, "keep": ["last"]},
            {"group_size": 128, "symmetric": False},
        ),
    ),
    Served(
        "compressed-tensors",
        "int4",
        "vllm",
        _BOTH,
        {
            "method": ("gptq", "awq", "rtn"),
            "group_size": GROUPS,
            "symmetric": FLAG,
            "keep": None,
            "int8_layers": None,
        },
        (
            {"method": "awq"},
            {
                "method": "gptq",
                "group_size": 64,
                "symmetric": True,
                "int8_layers": ["last"],
                "keep": ["first"],
            },
            {"method": "rtn", "group_size": 32, "symmetric": False},
        ),
        "W4A16, layers in int8_layers W8A8.",
    ),
    Served(
        "compressed-tensors",
        "int8",
        "vllm",
        _BOTH,
        {
            "activations": ("int8",),
            "method": ("gptq", "rtn"),
            "smooth_quant": None,
            "symmetric": (True,),
            "keep": None,
        },
        (
            {"activations": "int8", "smooth_quant": 0.8},
            {"activations": "int8", "method": "gptq", "symmetric": True, "keep": ["last"]},
            {"activations": "int8", "method": "rtn"},
        ),
        "W8A8: activations quantized per token as they come.",
    ),
    Served(
        "compressed-tensors",
        "fp8",
        "vllm",
        (CUDA,),
        {"activations": ("fp8",), "method": ("rtn",), "keep": None},
        ({"activations": "fp8"}, {"activations": "fp8", "method": "rtn", "keep": ["last"]}),
        f"FP8 dynamic: activations quantized per token as they come. {NO_GPU}",
    ),
    Served(
        "auto-round",
        "int4",
        "vllm",
        _BOTH,
        {"format": ("gptq",), **_GROUPED, **_TUNED},
        _tuned_examples("gptq"),
    ),
    Served(
        "auto-round",
        "int4",
        "vllm",
        _BOTH,
        {"format": ("awq",), **_GROUPED, **_TUNED, "symmetric": FLAG},
        ({"format": "awq", "symmetric": False}, *_tuned_examples("awq")[1:]),
    ),
    Served(
        "auto-round",
        "int4",
        "vllm",
        _BOTH,
        {"format": ("compressed-tensors",), **_GROUPED, **_TUNED},
        _tuned_examples("compressed-tensors"),
    ),
    *(
        Served("rounding", weights, name, engine.driven_on, _SIMULATED, ({}, {"group_size": 64}))
        for name, engine in ENGINES.items()
        for weights in ("int8", "int4", "int2")
    ),
)
REFUSED = (
    Refused(
        ("openvino",),
        "openvino",
        {"gptq": (True,), "lora_correction": (True,)},
        "NNCF does not combine the two",
        "gptq true alone",
    ),
    Refused(
        ("gptq",),
        "vllm",
        {"weights": ("int8",)},
        "vLLM has no CPU kernel for 8-bit GPTQ",
        "weights int4",
        (CPU,),
    ),
    Refused(
        ("gptq",),
        "vllm",
        {"symmetric": (False,)},
        "vLLM refuses asymmetric GPTQ",
        "symmetric true, or quantizer awq",
    ),
    Refused(
        ("gptq",),
        "vllm",
        {"desc_act": (True,), "group_size": (*GROUPS, None)},
        "vLLM no longer serves it with groups",
        "desc_act false, or group_size -1",
    ),
    Refused(
        ("awq",), "vllm", {"group_size": (-1,)}, "AWQ's gemm layout needs groups", "group_size 128"
    ),
    Refused(
        ("gptq", "awq", "auto-round", "neural-compressor"),
        "vllm",
        {"int8_layers": None},
        "vLLM has no CPU kernel for 8-bit weights alone",
        "quantizer compressed-tensors, which makes them W8A8",
        (CPU,),
    ),
    Refused(
        ("neural-compressor",),
        "vllm",
        {"method": ("awq",)},
        "Neural Compressor 3.10 leaves a factor before each layer, for which no engine has a place;"
        " with folding=True it is plain rounding, bit for bit",
        "method gptq, or quantizer awq",
    ),
    Refused(
        ("auto-round", "gptq", "awq", "compressed-tensors"),
        "openvino",
        {"engine": ("openvino",)},
        "optimum-intel 2.2.0 does not convert such checkpoints without gptqmodel or"
        " compressed-tensors beside it, and gptqmodel needs another transformers",
        "quantizer openvino",
    ),
)
