"""OpenVINO GenAI, exactly as it serves: ContinuousBatchingPipeline with the plug-in's own precision
defaults.

Distributions, and with them the tasks' log-likelihoods, come from GenAI's own paged-attention model
run by us (pipeline/engines/paged.py). GenAI's echo requests, which that is held against, have a
pipeline of their own, prefix caching off: mixed with decoding, or with a cached prefix, GenAI
returns wrong or no log-probabilities without saying so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

from pipeline.engines import Prompt, Sampling, Step, Visit, cores, eos_ids
from pipeline.engines.paged import DEVICE, PagedModel
from pipeline.errors import EvaluationError
from pipeline.recipe import Serve

RESOLVED = (
    "INFERENCE_PRECISION_HINT",
    "KV_CACHE_PRECISION",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE",
    "INFERENCE_NUM_THREADS",
)
# What the plug-in adds to the artifact's own precision: its defaults, or what vLLM computes in.
PRECISIONS: dict[str, dict[str, Any]] = {
    "engine": {},
    "bf16": {
        "INFERENCE_PRECISION_HINT": "bf16",
        "KV_CACHE_PRECISION": "bf16",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    },
}


def scheduler_settings(serve: Serve) -> dict[str, Any]:
    """Of GenAI's SchedulerConfig, by its own names."""
    return {
        "cache_size": serve.kv_cache_gib,
        "enable_prefix_caching": False,
        "max_num_batched_tokens": serve.max_num_batched_tokens,
        "max_num_seqs": serve.max_num_seqs,
    }


def properties(serve: Serve) -> dict[str, Any]:
    """Of the plug-in."""
    return {"INFERENCE_NUM_THREADS": len(cores(serve)), **precision(serve)}


def precision(serve: Serve) -> dict[str, Any]:
    """Those of the plug-in's properties that figures depend on."""
    cache = {"KV_CACHE_PRECISION": serve.kv_cache} if serve.kv_cache else {}
    return PRECISIONS[serve.precision] | cache


class OpenVinoEngine:
    def __init__(self, artifact: Path, serve: Serve) -> None:
        self._artifact, self._serve = artifact, serve
        self._opened: Any = None
        self._purpose = ""
        self._handles: dict[int, Any] = {}

    def __enter__(self) -> Self:
        import numpy
        import openvino
        import openvino_genai

        self._np, self._ov, self._genai = numpy, openvino, openvino_genai
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()
        self._handles.clear()

    def echo(self, ids: list[int]) -> list[float]:
        config = self._genai.GenerationConfig()
        config.echo, config.logprobs, config.max_new_tokens = True, 1, 0
        pipeline = self._open("echo")
        handle = pipeline.add_request(0, self._tensor(ids), config)
        while pipeline.has_non_finished_requests():
            pipeline.step()
        logprobs = list(handle.read_all()[0].generated_log_probs)
        if len(logprobs) != len(ids):
            raise EvaluationError(
                f"OpenVINO GenAI returned {len(logprobs)} log-probabilities for a prompt of"
                f" {len(ids)} tokens: it scored another prompt than it was given."
            )
        return logprobs[1:]  # the first value is a constant: nothing precedes the first token

    def distributions(self, prompts: list[Prompt], visit: Visit) -> None:
        self._open("distributions").distributions(prompts, visit)

    def submit(self, key: int, prompt: list[int], sampling: Sampling) -> None:
        config = self._generation(sampling)
        try:
            handle = self._open("decoding").add_request(key, self._tensor(prompt), config)
        except RuntimeError as error:  # of GenAI, for what it does not sample
            raise EvaluationError(f"OpenVINO GenAI: {_reason(error)}") from error
        self._handles[key] = handle

    def cancel(self, key: int) -> None:
        if handle := self._handles.pop(key, None):
            handle.cancel()
            if not self._handles:
                self._opened.step()  # frees its blocks, as the next step does otherwise

    def kv_cache_use(self) -> float:
        return self._opened.get_metrics().cache_usage / 100 if self._handles else 0.0

    def _generation(self, sampling: Sampling) -> Any:
        config = self._genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos = sampling.max_tokens, sampling.ignore_eos
        if not sampling.ignore_eos:
            config.stop_token_ids = set(eos_ids(self._artifact))
        config.do_sample = sampling.temperature > 0
        if config.do_sample:
            config.temperature, config.rng_seed = sampling.temperature, sampling.seed
            config.top_p, config.min_p = sampling.top_p, sampling.min_p
            if sampling.top_k:
                config.top_k = sampling.top_k
        config.presence_penalty = sampling.presence_penalty
        config.frequency_penalty = sampling.frequency_penalty
        config.repetition_penalty = sampling.repetition_penalty
        config.logprobs = int(sampling.logprobs)
        if sampling.json_schema is not None:
            config.structured_output_config = self._genai.StructuredOutputConfig(
                json_schema=sampling.json_schema
            )
        return config

    def step(self) -> list[Step]:
        if not self._handles:
            return []
        try:
            self._opened.step()
        except RuntimeError as error:
            return self._all_failed(error)
        return [
            step for key, handle in list(self._handles.items()) if (step := self._read(key, handle))
        ]

    def _all_failed(self, error: RuntimeError) -> list[Step]:
        """A pipeline that failed in a step is of no use any more: the next request opens another.
        What it says may repeat one request to the others."""
        said = f"OpenVINO GenAI failed in a step, at {_place(error)}, and is opened anew"
        failed = [Step(key, [], True, said, lost=True) for key in self._handles]
        self._handles.clear()
        self._close()
        return failed

    def _read(self, key: int, handle: Any) -> Step | None:
        if handle.get_status() == self._genai.GenerationStatus.IGNORED:
            del self._handles[key]
            return Step(
                key, [], True, "the request does not fit into the KV cache (serve.kv_cache_gib)"
            )
        if not handle.can_read():
            return None
        output = next(iter(handle.read().values()))
        done = output.finish_reason != self._genai.GenerationFinishReason.NONE
        if done:
            del self._handles[key]
        return Step(key, list(output.generated_ids), done, None, list(output.generated_log_probs))

    def settings(self) -> dict[str, Any]:
        """What the plug-in resolved for this model; it has to be compiled once more to be asked."""
        self._close()
        compiled = self._ov.Core().compile_model(
            self._artifact / "openvino_model.xml", DEVICE, properties(self._serve)
        )
        read = {name.lower(): str(compiled.get_property(name)) for name in RESOLVED}
        return {"device": DEVICE.lower(), **read, **scheduler_settings(self._serve)}

    def _open(self, purpose: str) -> Any:
        """What decodes, echoes or gives distributions; one at a time, so that memory holds one
        model and one cache."""
        if self._purpose != purpose:
            self._close()
            if purpose == "distributions":
                self._opened = PagedModel(
                    self._artifact, self._serve, precision(self._serve)
                ).__enter__()
            else:
                scheduler = self._genai.SchedulerConfig()
                for name, value in scheduler_settings(self._serve).items():
                    setattr(scheduler, name, value)
                self._opened = self._genai.ContinuousBatchingPipeline(
                    str(self._artifact), scheduler, DEVICE, properties(self._serve)
                )
            self._purpose = purpose
        return self._opened

    def _close(self) -> None:
        self._opened, self._purpose = None, ""

    def _tensor(self, ids: list[int]) -> Any:
        return self._ov.Tensor(self._np.array([ids], dtype=self._np.int64))


def _reason(error: RuntimeError) -> str:
    """What follows the place in GenAI's sources, which begins its messages."""
    said = " ".join(str(error).split("\n", 1)[-1].split())
    return said or f"failed at {_place(error)}"


def _place(error: RuntimeError) -> str:
    found = re.search(r"[\w.-]+\.[ch]\w*:\d+", str(error))
    return found[0] if found else "a place that it does not name"
