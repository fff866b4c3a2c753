"""The recipe: one YAML file = one model with its variants, parsed strictly once.

`load` raises RecipeError with file, key, value found, what was expected and, for a misspelled name, the nearest valid
one. `schema` gives the JSON schema that editors use. Whether a tool and an engine can do what a variant asks is
decided in pipeline/quantizers, before any work.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline import paths
from pipeline.errors import RecipeError
from pipeline.parsing import parse, unknown

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._]|-(?!-))*")
VARIANT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_]|-(?!-))*")

Weights = Literal["bf16", "int8", "int4", "int2"]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Items = Positive | Literal["all"]
BY_WEIGHTS = ("perplexity_ratio", "mean_kl", "p99_kl", "top1_agreement", "accuracy_drop", "task_drop")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Model(Strict):
    """The source checkpoint: a hub repository at a commit, or a local folder."""

    repo: str | None = Field(None, description="hub repository, owner/name")
    revision: str | None = Field(None, pattern="^[0-9a-f]{40}$", description="commit of the repository, 40 hex digits")
    path: str | None = Field(None, description="local folder, relative to the project")
    parameters: Positive | None = Field(None, description="parameter count, for estimates before the fetch")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.repo is None) == (self.path is None):
            raise ValueError("give either 'repo' with 'revision', or 'path'")
        if self.repo is not None and self.revision is None:
            raise ValueError("'repo' needs 'revision': the commit's 40 hex digits (a branch name can move)")
        return self


class Calibration(Strict):
    """What the quantizers see: `samples` rows of `tokens` token ids each."""

    prompts: str = Field(description="name of a prompt set in calibration/")
    samples: Positive
    tokens: Annotated[int, Field(ge=16)]
    seed: Count = 0
    chat_template: bool = Field(False, description="render each prompt through the checkpoint's chat template")
    max_overlap: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01, description="largest share of the evaluation texts' 13-word sequences that may occur in the samples"
    )


class Perplexity(Strict):
    """Protocol of the GPTQ paper (arXiv 2210.17323): non-overlapping windows, tail dropped, positions 2.. scored."""

    texts: Annotated[list[str], Field(min_length=1)]
    window: Annotated[int, Field(ge=8)]
    max_windows: Positive | None = Field(None, description="use the first N windows of each text; default all")
    bos: Literal["first", "every"] = Field("first", description="'every': each window starts with BOS (Gemma needs it)")


class Divergence(Strict):
    """Comparison of whole next-token distributions with the reference's.

    Many windows with few positions each tell more than few whole ones, since the positions of a window are alike
    (docs/decisions.md has how narrow the bounds get with few windows).
    """

    positions: Annotated[int, Field(ge=512, description="of all texts; each costs 4 bytes x vocabulary on disk")] = 8192
    windows: Annotated[int, Field(ge=16, description="of each text, spread evenly, or all that it has")] = 64

    def chosen(self, count: int) -> list[int]:
        """Which of a text's `count` windows are compared."""
        wanted = min(count, self.windows)
        return [place * count // wanted for place in range(wanted)]

    def places(self, count: int, scored: int, texts: int) -> range:
        """Which of a window's `scored` positions are compared: every n-th, so that all texts give `positions` at least."""
        return range(0, scored, max(1, min(count, self.windows) * scored * texts // self.positions))


class Evaluate(Strict):
    perplexity: Perplexity
    divergence: Divergence = Divergence()
    tasks: Annotated[dict[str, Items], Field(min_length=1)] = Field(description="items to draw of each lm-eval task")
    extend_to: dict[str, Positive] = Field({}, description="most items to draw with gate.on_inconclusive: extend")
    clusters: dict[str, str] = Field({}, description="document field that related items of a task share (passage, subject)")
    task_path: str | None = Field(None, description="folder of local lm-eval task files")
    seed: Count = 0

    @model_validator(mode="after")
    def _known_tasks(self) -> Self:
        for key, tasks in (("extend_to", self.extend_to or {}), ("clusters", self.clusters)):
            for name in tasks.keys() - self.tasks.keys():
                raise ValueError(f"{key}: found task {name!r}, expected one of evaluate.tasks: {', '.join(self.tasks)}")
        if self.extend_to:
            self._one_multiple()
        if len(set(self.perplexity.texts)) < len(self.perplexity.texts):
            raise ValueError(f"perplexity.texts: found {self.perplexity.texts}, expected each text once")
        return self

    def _one_multiple(self) -> None:
        """Tasks that grew at different rates would weigh differently in the pooled accuracy after each look."""
        growth = {name: self.extend_to.get(name, 0) / drawn for name, drawn in self.tasks.items() if not isinstance(drawn, str)}
        whole = sorted(name for name, drawn in self.tasks.items() if drawn == "all")
        if whole:
            raise ValueError(f"extend_to: task {whole[0]!r} is measured whole ('all') and cannot grow. Give a number of its items")
        if min(growth.values()) < 1 or len(set(growth.values())) > 1:
            found = ", ".join(f"{name} {ratio:g} times" for name, ratio in growth.items())
            raise ValueError(f"extend_to: found {found} the items of evaluate.tasks, expected the same multiple for every task")


class Gate(Strict):
    """Limits of acceptance, each by the precision of the variant's weights; definitions in pipeline/gate."""

    perplexity_ratio: dict[Weights, Annotated[float, Field(gt=1)]]
    mean_kl: dict[Weights, Annotated[float, Field(gt=0, description="nats per token")]]
    p99_kl: dict[Weights, Annotated[float, Field(gt=0, description="nats per token")]]
    top1_agreement: dict[Weights, Share]
    accuracy_drop: dict[Weights, Share]
    task_drop: dict[Weights, Share]
    length_ratio: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)] = [0.9, 1.1]
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    on_inconclusive: Literal["block", "extend"] = "block"

    @model_validator(mode="after")
    def _low_then_high(self) -> Self:
        if not self.length_ratio[0] < 1 < self.length_ratio[1]:
            raise ValueError(f"length_ratio: found {self.length_ratio}, expected a value below 1 and one above")
        return self


class Serve(Strict):
    """The settings under which every artifact is scored and timed."""

    max_model_len: Annotated[int, Field(ge=32)]
    max_num_seqs: Positive = 64
    max_num_batched_tokens: Positive = 2048
    kv_cache_gib: Positive = 1
    threads: Positive | None = Field(None, description="cores to use; default all of this machine")
    eager: bool = Field(False, description="vLLM without torch.compile: starts faster, decodes slower")


class Benchmark(Strict):
    concurrency: Annotated[list[Positive], Field(min_length=1)]
    prompt_tokens: Positive
    output_tokens: Annotated[int, Field(ge=2)]
    repeats: Positive = 5
    requests: Positive = Field(16, description="requests of one repeat; at least the highest concurrency")

    @model_validator(mode="after")
    def _enough_requests(self) -> Self:
        if self.requests < max(self.concurrency):
            raise ValueError(f"requests: found {self.requests}, expected at least {max(self.concurrency)} (concurrency)")
        return self


class Variant(Strict):
    """One artifact: engine, quantizer and its settings. Without a quantizer: the unquantized model on that engine."""

    engine: Literal["openvino", "vllm"]
    quantizer: str | None = None
    weights: Weights = "bf16"
    group_size: Annotated[int, Field(ge=-1)] | None = Field(None, description="-1: one group per channel")
    symmetric: bool | None = None
    ratio: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="share of layers in 4 bits")
    awq: bool | None = None
    scale_estimation: bool | None = None
    desc_act: bool | None = None
    allow_skipped: Count = Field(0, description="how many layers the tool may leave unquantized")

    @model_validator(mode="after")
    def _quantizer_and_weights_agree(self) -> Self:
        if (self.quantizer is None) != (self.weights == "bf16"):
            raise ValueError("a quantizer needs 'weights' of 8 bits or fewer, and low-bit 'weights' need a quantizer")
        if self.group_size == 0:
            raise ValueError("group_size: found 0, expected a number of columns, or -1 for one group per channel")
        if self.quantizer is None and self.settings():
            raise ValueError(f"{sorted(self.settings())} mean nothing without a quantizer")
        return self

    def settings(self) -> dict[str, Any]:
        """The quantizer's settings that the recipe names, as given."""
        given = self.model_dump(exclude={"engine", "quantizer", "weights", "allow_skipped"})
        return {key: value for key, value in given.items() if value is not None}


class Recipe(Strict):
    model: Model
    calibration: Calibration
    evaluate: Evaluate
    gate: Gate
    serve: Serve
    benchmark: Benchmark
    variants: Annotated[dict[str, Variant], Field(min_length=1)]

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        for name, variant in self.variants.items():
            if not VARIANT_NAME.fullmatch(name):
                raise ValueError(f"variant name {name!r}: use a-z, 0-9, _ and single dashes (DVC reads names as keys)")
            for limit in BY_WEIGHTS:
                if variant.weights not in getattr(self.gate, limit):
                    raise ValueError(f"gate.{limit} has no limit for {variant.weights!r}, which variant {name!r} needs")
        baselines = {variant.engine for variant in self.variants.values() if variant.quantizer is None}
        for engine in sorted({variant.engine for variant in self.variants.values()} - baselines):
            raise ValueError(
                f"variants has none without a quantizer for engine {engine!r}, the noise floor and speed baseline of the "
                f"others. Add for instance {engine}-bf16: {{engine: {engine}}}"
            )
        if self.gate.on_inconclusive == "extend" and not self.evaluate.extend_to:
            raise ValueError("gate.on_inconclusive: 'extend' needs evaluate.extend_to, the most items to draw of each task")
        longest = self.benchmark.prompt_tokens + self.benchmark.output_tokens
        for key, tokens in (("evaluate.perplexity.window", self.evaluate.perplexity.window + 1),
                            ("benchmark.prompt_tokens + output_tokens", longest)):  # fmt: skip
            if tokens > self.serve.max_model_len:
                raise ValueError(f"{key} needs serve.max_model_len of at least {tokens}, found {self.serve.max_model_len}")
        return self

    def baseline(self, variant: Variant) -> str | None:
        """The unquantized variant on the same engine, its noise floor; None for an unquantized variant itself."""
        if variant.quantizer is None:
            return None
        return next(name for name, other in self.variants.items() if (other.engine, other.quantizer) == (variant.engine, None))


class PromptSet(Strict):
    """One YAML in calibration/: a source of prompts or text, its licence and hash."""

    path: str | None = Field(None, description="local file: .jsonl, .jsonl.gz or .txt")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    repo: str | None = Field(None, description="hub data set, owner/name")
    revision: str | None = Field(None, pattern="^[0-9a-f]{40}$")
    config: str | None = None
    data_dir: str | None = None
    split: str | None = None
    field: str | None = Field(None, description="the column that holds the text")
    dialogue: Literal["hh-rlhf"] | None = Field(None, description="how to split the text into turns")
    first: Count | None = Field(None, description="skip this many documents")
    documents: Positive | None = Field(None, description="use this many documents; default all")
    licence: str
    source: str

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.repo is None) == (self.path is None):
            raise ValueError("give either 'path' with 'sha256', or 'repo' with 'revision' and 'split'")
        if self.path is not None and self.sha256 is None:
            raise ValueError("'path' needs 'sha256' of the file, so that a changed file is noticed")
        if self.repo is not None and (self.revision is None or self.split is None or self.field is None):
            raise ValueError("'repo' needs 'revision' (40 hex digits), 'split' and 'field'")
        return self


def load(name: str) -> Recipe:
    """The recipe of that name in recipes/. Raises RecipeError."""
    path = paths.recipe(name)
    if not path.is_file():
        raise unknown("recipe", name, path, names())
    return parse(path, Recipe)


def names() -> list[str]:
    """All recipes of the project, sorted. Raises RecipeError for a name that DVC could not select."""
    found = sorted(path.stem for path in paths.RECIPES.glob("*.yaml"))
    for name in found:
        if not NAME.fullmatch(name):
            raise RecipeError(
                f"recipes/{name}.yaml: use lower-case letters, digits, dots, underscores and single dashes in a recipe's "
                "name (a double dash separates recipe and variant in DVC stage names). Rename the file."
            )
    return found


def load_prompt_set(name: str) -> PromptSet:
    path = paths.prompt_set(name)
    if not path.is_file():
        raise unknown("prompt set", name, path, sorted(p.stem for p in paths.PROMPT_SETS.glob("*.yaml")))
    return parse(path, PromptSet)


def schema() -> str:
    """The JSON schema of a recipe, as recipes/recipe.schema.json holds it for editors."""
    return json.dumps(Recipe.model_json_schema(), indent=1) + "\n"
