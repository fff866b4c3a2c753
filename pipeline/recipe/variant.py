"""One artifact of a recipe: which engine serves it, and how it is quantized, in the same words for
all quantizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.capabilities import ENGINES, Engine
from pipeline.recipe.base import MOST, Count, Few, KvCache, Share, Strict, Weights
from pipeline.recipe.parsing import one_of_several

if TYPE_CHECKING:
    EngineName = str
else:
    EngineName = Literal[tuple(ENGINES)]
USUAL_GROUP, MXFP4_GROUP = 128, 32  # of publications and checkpoints; of the format
# With groups of 128 these are off the front of size and quality, beside AutoRound
# (benchmarks/results/quality.md).
FINE_GROUP, FINE = 32, ("gptq", "awq", "auto-gptq", "autoawq")
NOT_THE_QUANTIZERS = (
    "engine",
    "target",
    "quantizer",
    "weights",
    "allow_skipped",
    "kv_cache",
    "ladder",
    "goal",
)


Ladder = Annotated[
    Annotated[list[str | dict[str, Any]], Field(min_length=1)] | Literal["auto"],
    one_of_several("'auto' or a list of rungs, for instance [int4 g128, int8]"),
]


class Variant(Strict):
    """One artifact: engine, quantizer and its settings. Without a quantizer: the unquantized model
    on that engine."""

    engine: EngineName
    target: Literal["cpu", "cuda", "xpu"] = Field(
        "cpu", description="the device it is made for: speed elsewhere decides nothing"
    )
    quantizer: str | None = None
    weights: Weights = "bf16"
    activations: Literal["int8", "fp8"] | None = Field(
        None, description="quantized too; default weights only"
    )
    method: Literal["rtn", "gptq", "awq"] | None = Field(
        None,
        description=(
            "of a quantizer that has several, rtn rounding to nearest; default gptq, for fp8 rtn"
        ),
    )
    format: Literal["gptq", "awq", "compressed-tensors"] | None = Field(
        None, description="of a quantizer that writes several"
    )
    group_size: Annotated[int, Field(ge=-1, le=MOST)] | None = Field(
        None,
        description=(
            "columns that share a scale, -1: all of a row; default 128, of gptq, awq and mxfp4 32"
        ),
    )
    symmetric: bool | None = Field(
        None,
        description=(
            "no zero-points; default false for openvino, awq and AutoRound's awq layout, true for"
            " the others"
        ),
    )
    keep: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description=(
            "layers left in 16 bits: names with * for anything, 'first' and 'last' block,"
            " 'lm_head'; default none. The output projection has 16 bits for vLLM anyhow, 8 for"
            " OpenVINO"
        ),
    )
    int8_layers: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description=(
            "layers in 8 bits where the others have 4, in the words of keep, which goes before"
        ),
    )
    ratio: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="share of the weights in 4 bits; default 1"
    )
    backup: Literal["int8_sym", "int8_asym", "none"] | None = Field(
        None, description="precision of what ratio leaves out; default int8_asym"
    )
    awq: bool | None = Field(None, description="AWQ (arXiv 2306.00978) by NNCF; default false")
    scale_estimation: bool | None = Field(
        None, description="NNCF's search for scales by the calibration set; default false"
    )
    gptq: bool | None = Field(None, description="GPTQ (arXiv 2210.17323) by NNCF; default false")
    lora_correction: bool | None = Field(
        None, description="NNCF's low-rank correction of errors, in 8 bits; default false"
    )
    smooth_quant: Share | None = Field(
        None,
        description="SmoothQuant's alpha (arXiv 2211.10438); default 0.95 for openvino, else none",
    )
    desc_act: bool | None = Field(
        None, description="columns by falling activation, of gptq; default false"
    )
    iterations: Few | None = Field(
        None,
        description=(
            "steps of AutoRound in each block; default 200, its own. 50 is what it calls light,"
            " 1000 best"
        ),
    )
    kv_cache: KvCache | None = Field(None, description="instead of serve.kv_cache")
    ladder: Ladder | None = Field(
        None,
        description=(
            "ways to quantize, of which the first that passes the gate is taken"
            " (pipeline/recipe/ladder.py)"
        ),
    )
    goal: Literal["smallest", "fastest"] | None = Field(
        None, description="of a ladder: the order to try; default as written"
    )
    allow_skipped: Count = Field(0, description="how many layers the tool may leave unquantized")

    @model_validator(mode="after")
    def _quantizer_and_weights_agree(self) -> Self:
        if self.ladder is not None and self.weights != "bf16":
            raise ValueError(
                f"weights: found {self.weights!r} beside a ladder, whose rungs give theirs."
                " Remove it"
            )
        if self.ladder == "auto" and self.quantizer is not None:
            raise ValueError(
                f"quantizer: found {self.quantizer!r} beside ladder: auto, whose rungs name theirs."
                " Remove it"
            )
        if self.ladder is None and self.goal is not None:
            raise ValueError(
                f"goal: found {self.goal!r}, which needs a ladder. Add ladder: auto, or remove it"
            )
        if self.ladder is None and (self.quantizer is None) != (self.weights == "bf16"):
            raise ValueError(
                "a quantizer needs 'weights' of 8 bits or fewer, and low-bit 'weights' need a"
                " quantizer"
            )
        if self.target not in self.served_by.targets:
            on = " and ".join(map(repr, self.served_by.targets))
            raise ValueError(f"target: found {self.target!r}, {self.served_by.name} runs on {on}")
        if self.group_size == 0:
            raise ValueError(
                "group_size: found 0, expected a number of columns, or -1 for one group per channel"
            )
        if self.ladder is None and self.quantizer is None and self.settings():
            raise ValueError(f"{sorted(self.settings())} mean nothing without a quantizer")
        if self.kv_cache and not self.served_by.own_kv_cache:
            own = " and ".join(engine.name for engine in ENGINES.values() if engine.own_kv_cache)
            raise ValueError(
                f"kv_cache: found {self.kv_cache!r}; only {own}'s is set by variant. Remove it"
            )
        return self

    @property
    def served_by(self) -> Engine:
        """What its engine can do."""
        return ENGINES[self.engine]

    @property
    def groups_of(self) -> int:
        """The group size in force, in columns: the recipe's, or the usual one of the quantizer."""
        if self.group_size is not None:
            return self.group_size
        if self.weights == "mxfp4":
            return MXFP4_GROUP
        return FINE_GROUP if self.quantizer in FINE else USUAL_GROUP

    @property
    def is_baseline(self) -> bool:
        """Unquantized: the noise floor and the speed baseline of its engine."""
        return self.quantizer is None and self.ladder is None

    def settings(self) -> dict[str, Any]:
        """The quantizer's settings that the recipe names, as given."""
        given = self.model_dump(exclude=set(NOT_THE_QUANTIZERS))
        return {key: value for key, value in given.items() if value is not None}
