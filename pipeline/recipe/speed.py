"""How artifacts are served and timed."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.recipe.base import LONGEST, Count, Few, KvCache, Share, Strict

Milliseconds = Annotated[float, Field(gt=0, le=1e9)]
Tokens = Annotated[int, Field(ge=2, le=LONGEST)]


class Serve(Strict):
    """The settings under which every artifact is scored and timed."""

    max_model_len: Annotated[int, Field(ge=32, le=LONGEST)]
    max_num_seqs: Few = 64
    max_num_batched_tokens: Annotated[int, Field(gt=0, le=LONGEST)] = 2048
    kv_cache_gib: Few = 1
    threads: Few | None = Field(None, description="cores to use; default all of this machine")
    precision: Literal["engine", "bf16"] = Field(
        "engine",
        description=(
            "'bf16': OpenVINO without its dynamic quantization of activations and with a bf16 KV"
            " cache"
        ),
    )
    kv_cache: KvCache | None = Field(
        None,
        description="of OpenVINO's KV cache, default its own; f32 only where it computes in f32",
    )
    eager: bool = Field(
        False, description="vLLM without torch.compile: starts faster, decodes slower"
    )

    @model_validator(mode="after")
    def _a_token_each(self) -> Self:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens: found {self.max_num_batched_tokens}, expected at least"
                f" max_num_seqs ({self.max_num_seqs}): each sequence takes a token of a step"
            )
        return self


class Slo(Strict):
    """What a request must keep to count as goodput."""

    ttft_ms: Milliseconds | None = None
    tpot_ms: Milliseconds | None = None
    e2e_ms: Milliseconds | None = None

    @model_validator(mode="after")
    def _one_at_least(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give at least one of ttft_ms, tpot_ms, e2e_ms")
        return self


class Price(Strict):
    """What the machine costs, and how much of its time it is busy."""

    per_hour: Annotated[float, Field(gt=0, le=1e9)]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$", description="ISO 4217")] = "USD"
    utilisations: Annotated[list[Share], Field(min_length=1)] = Field(default=[0.3, 0.6, 0.9])


class Benchmark(Strict):
    """One trace of requests, replayed on every variant."""

    concurrency: Annotated[
        list[Few], Field(min_length=1, description="requests in flight in the closed loop")
    ]
    requests: Few = Field(
        16, description="requests of one replay; at least the highest concurrency"
    )
    prompts: str | None = Field(
        None, description="name of a prompt set in calibration/; default the calibration samples"
    )
    lengths: Literal["fixed", "natural"] = Field(
        "fixed", description="'natural': prompts as long as they are, prompt_tokens at most"
    )
    prompt_tokens: Tokens
    output_tokens: Tokens
    repeats: Annotated[int, Field(gt=0, le=1000)] = Field(
        5, description="replays of every load, the variants taking turns"
    )
    open_loop: list[Annotated[float, Field(ge=0.01, le=2)]] = Field(
        default=[],
        description=(
            "Poisson arrivals at these fractions of the requests/s that the variant reached in the"
            " closed loop"
        ),
    )
    slo: Slo | None = None
    price: Price | None = None
    matched: bool = Field(
        True,
        description=(
            "time OpenVINO once more at vLLM's precision, for a comparison of like with like"
        ),
    )
    seed: Count = 0

    @model_validator(mode="after")
    def _enough_requests(self) -> Self:
        if self.requests < max(self.concurrency):
            raise ValueError(
                f"requests: found {self.requests}, expected at least {max(self.concurrency)}"
                " (concurrency)"
            )
        if sorted(set(self.concurrency)) != self.concurrency:
            raise ValueError(
                f"concurrency: found {self.concurrency}, expected each number once, lowest first"
            )
        if self.lengths == "natural" and self.prompts is None:
            raise ValueError(
                "lengths: 'natural' needs 'prompts', since calibration samples are cut to one"
                " length"
            )
        return self
