"""Static INT8 by Intel Neural Compressor, as a stateful OpenVINO IR that GenAI serves.

Neural Compressor's PT2E path (`INT8StaticQuantConfig`) observes a torch.export graph that has no KV
cache. What it found, the scale and zero-point of each linear layer's input and weight, is put
around the layers of the model as fake quantization, and that is exported with its cache: OpenVINO
keeps it as FakeQuantize operations and INT8 weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import QuantizeError
from pipeline.quantizers import Outcome, Spec
from pipeline.quantizers.export import add_tokenizer

if TYPE_CHECKING:
    import torch


class Observed(NamedTuple):
    """Of one linear layer: its input is quantized to 0..255 as a whole, its weight to -128..127 by
    output row."""

    scale: float
    zero: int
    weight_scales: torch.Tensor  # [out]


def quantize(spec: Spec, out: Path) -> Outcome:
    """Calibrates, bridges, exports and saves. Raises QuantizeError for a layer that was not
    observed."""
    import torch
    from optimum.exporters.openvino import export_from_model
    from optimum.intel import OVConfig
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        spec.source, dtype=torch.float32, trust_remote_code=False, local_files_only=True
    )
    wanted = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != spec.output
    ]
    wanted = [name for name in wanted if name not in spec.keep]
    observed = observe(model, spec.samples.ids)
    missing = [name for name in wanted if name not in observed]
    if missing:
        raise QuantizeError(
            f"Neural Compressor observed {len(observed)} layers and left out"
            f" {', '.join(missing[:5])}."
        )
    for name in wanted:
        model.set_submodule(name, fake_quantized(model.get_submodule(name), observed[name]))
    export_from_model(
        model,
        output=out,
        task="text-generation-with-past",
        stateful=True,
        ov_config=OVConfig(dtype="fp32"),
    )
    add_tokenizer(spec.source, out)
    ranges = {
        name: {"input_scale": observed[name].scale, "input_zero_point": observed[name].zero}
        for name in wanted
    }
    return Outcome(
        {
            "bits": 8,
            "activations": "uint8 per tensor",
            "weights": "int8 per channel",
            "samples": len(spec.samples.ids),
            "keep": spec.keep,
            "ranges": ranges,
        }
    )


def observe(model: Any, rows: list[list[int]]) -> dict[str, Observed]:
    """Runs the rows through Neural Compressor's observers; what it decided, by layer."""
    import torch
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import INT8StaticQuantConfig, convert, prepare

    length = min(map(len, rows))
    batches = [torch.tensor([row[:length]]) for row in rows]
    with torch.no_grad():
        prepared = prepare(
            export(logits_only(model), (batches[0],)), quant_config=INT8StaticQuantConfig()
        )
        for batch in batches:
            prepared(batch)
        converted = convert(prepared)
    nodes = [node for node in converted.graph.nodes if node.target is torch.ops.aten.linear.default]
    return dict(pair for node in nodes if (pair := _read(converted, node)))


def _read(graph: Any, linear: Any) -> tuple[str, Observed] | None:
    """None where Neural Compressor left the layer alone."""
    given, weight = (_quantize_node(argument) for argument in linear.args[:2])
    if given is None or weight is None:
        return None
    name = str(weight.args[0].target).removeprefix("model.").removesuffix(".weight")
    scale, zero = (_value(graph, argument) for argument in given.args[1:3])
    return name, Observed(float(scale), int(zero), _value(graph, weight.args[1]))


def _quantize_node(dequantize: Any) -> Any:
    """The node that quantizes what `dequantize` undoes; None if it undoes nothing."""
    if "dequantize" not in str(dequantize.target):
        return None
    return dequantize.args[0]


def _value(graph: Any, argument: Any) -> Any:
    """Scales are attributes of the graph, or numbers in it."""
    if not hasattr(argument, "target"):
        return argument
    value = graph
    for part in str(argument.target).split("."):
        value = getattr(value, part)
    return value


def fake_quantized(linear: torch.nn.Linear, constants: Observed) -> torch.nn.Module:
    """The layer with its input and its weight rounded to what INT8 can say of them."""
    import torch

    class FakeQuantized(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = linear.weight, linear.bias
            self.register_buffer("scales", constants.weight_scales.float())
            self.register_buffer(
                "zeros", torch.zeros(len(constants.weight_scales), dtype=torch.int32)
            )

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            given = torch.fake_quantize_per_tensor_affine(
                given, constants.scale, constants.zero, 0, 255
            )
            weight = torch.fake_quantize_per_channel_affine(
                self.weight, self.scales, self.zeros, 0, -128, 127
            )
            return torch.nn.functional.linear(given, weight, self.bias)

    return FakeQuantized()


def logits_only(model: Any) -> Any:
    """The model as torch.export takes it: token ids in, logits out, no cache."""
    import torch

    class Logits(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, use_cache=False).logits

    return Logits()
