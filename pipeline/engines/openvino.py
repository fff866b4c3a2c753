"""OpenVINO GenAI, exactly as it serves: ContinuousBatchingPipeline with the plug-in's own precision defaults.

Scoring uses echo requests in a pipeline of its own, prefix caching off: mixed with decoding, or with a cached prefix,
GenAI returns wrong or no log-probabilities without saying so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

from pipeline.engines import Scored, Step
from pipeline.errors import EvaluationError
from pipeline.recipe import Serve

DEVICE = "CPU"


class OpenVinoEngine:
    def __init__(self, artifact: Path, serve: Serve) -> None:
        self._artifact, self._serve = artifact, serve
        self._decoder: Any = None
        self._handles: dict[int, Any] = {}

    def __enter__(self) -> Self:
        import numpy
        import openvino
        import openvino_genai

        self._np, self._ov, self._genai = numpy, openvino, openvino_genai
        return self

    def __exit__(self, *exc: object) -> None:
        self._decoder = None
        self._handles.clear()

    def score(self, sequences: list[list[int]]) -> list[Scored]:
        config = self._genai.GenerationConfig()
        config.echo, config.logprobs, config.max_new_tokens = True, 1, 0
        pipeline = self._pipeline()
        handles = [pipeline.add_request(key, self._tensor(ids), config) for key, ids in enumerate(sequences)]
        while pipeline.has_non_finished_requests():
            pipeline.step()
        return [self._scored(handle.read_all()[0], ids) for handle, ids in zip(handles, sequences, strict=True)]

    @staticmethod
    def _scored(output: Any, ids: list[int]) -> Scored:
        logprobs = list(output.generated_log_probs)
        if len(logprobs) != len(ids):
            raise EvaluationError(
                f"OpenVINO GenAI returned {len(logprobs)} log-probabilities for a prompt of {len(ids)} tokens: it scored "
                "another prompt than it was given."
            )
        return Scored(logprobs[1:], None)  # the first value is a constant: nothing precedes the first token

    def submit(self, key: int, prompt: list[int], max_tokens: int, stop_at_eos: bool) -> None:
        if self._decoder is None:
            self._decoder = self._pipeline()
        config = self._genai.GenerationConfig(str(self._artifact / "generation_config.json"))
        config.max_new_tokens, config.ignore_eos = max_tokens, not stop_at_eos
        config.do_sample = False
        self._handles[key] = self._decoder.add_request(key, self._tensor(prompt), config)

    def step(self) -> list[Step]:
        if not self._handles:
            return []
        self._decoder.step()
        unfinished = self._genai.GenerationFinishReason.NONE
        steps = []
        for key, handle in list(self._handles.items()):
            if not handle.can_read():
                continue
            output = next(iter(handle.read().values()))
            done = output.finish_reason != unfinished
            if done:
                del self._handles[key]
            steps.append(Step(key, list(output.generated_ids), done))
        return steps

    def settings(self) -> dict[str, Any]:
        properties = self._ov.Core().compile_model(self._artifact / "openvino_model.xml", DEVICE, self._properties())
        names = (
            "INFERENCE_PRECISION_HINT",
            "KV_CACHE_PRECISION",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE",
            "INFERENCE_NUM_THREADS",
        )
        read = {name.lower(): str(properties.get_property(name)) for name in names}
        return {**read, **self._scheduler_settings(), "device": DEVICE}

    def _scheduler_settings(self) -> dict[str, Any]:
        return {
            "cache_size": self._serve.kv_cache_gib,
            "enable_prefix_caching": False,
            "max_num_batched_tokens": self._serve.max_num_batched_tokens,
            "max_num_seqs": self._serve.max_num_seqs,
        }

    def _properties(self) -> dict[str, Any]:
        return {"INFERENCE_NUM_THREADS": self._serve.threads or os.cpu_count() or 1}

    def _pipeline(self) -> Any:
        scheduler = self._genai.SchedulerConfig()
        for name, value in self._scheduler_settings().items():
            setattr(scheduler, name, value)
        return self._genai.ContinuousBatchingPipeline(str(self._artifact), scheduler, DEVICE, self._properties())

    def _tensor(self, ids: list[int]) -> Any:
        return self._ov.Tensor(self._np.array([ids], dtype=self._np.int64))
