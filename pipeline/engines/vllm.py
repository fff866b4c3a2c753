"""vLLM in process: one LLM scores (prompt log-probabilities) and decodes; prefix caching is off.

With prefix caching on, prompt log-probabilities can be stale (vllm-project/vllm#42245).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

from pipeline.engines import Scored, Step, Visit, cores, eos_ids
from pipeline.errors import EvaluationError
from pipeline.recipe import Serve


def arguments(serve: Serve) -> dict[str, Any]:
    """The recipe's settings under vLLM's own names: for LLM() here, and as options of `vllm serve` in pipeline/serving."""
    return {
        "dtype": "bfloat16",
        "max_model_len": serve.max_model_len,
        "max_num_seqs": serve.max_num_seqs,
        "max_num_batched_tokens": max(serve.max_num_batched_tokens, serve.max_model_len),
        "enable_prefix_caching": False,
        "enforce_eager": serve.eager,
        "generation_config": "vllm",
        "seed": 0,
    }


def environment(serve: Serve) -> dict[str, str]:
    """The settings that vLLM takes from environment variables only."""
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(serve.kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores(serve))),
        # vLLM's default, spelled out and recorded: with AMX, int4 layers run as W4A8. Turned off, its W4A16 kernel dies with
        # an illegal instruction, since nobody asks the kernel for the AMX permission (docs/decisions.md).
        "VLLM_CPU_INT4_W4A8": "1",
    }


class VllmEngine:
    _multiprocessing = False  # `distributions` reads off the sampler, which has to be in this process

    def __init__(self, artifact: Path, serve: Serve) -> None:
        self._artifact, self._serve = artifact, serve
        self._given: dict[str, int] = {}
        self._submitted = 0

    def __enter__(self) -> Self:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(self._multiprocessing))
        os.environ.update(environment(self._serve))
        from vllm import LLM, SamplingParams

        self._sampling = SamplingParams
        self._llm = LLM(str(self._artifact), **arguments(self._serve))
        return self

    def __exit__(self, *exc: object) -> None:
        del self._llm

    def score(self, sequences: list[list[int]]) -> list[Scored]:
        outputs = self._generate(sequences, prompt_logprobs=1)
        return [self._scored(output.prompt_logprobs, ids) for output, ids in zip(outputs, sequences, strict=True)]

    @staticmethod
    def _scored(entries: Any, ids: list[int]) -> Scored:
        if entries is None or len(entries) != len(ids):
            raise EvaluationError(f"vLLM returned no log-probabilities for a prompt of {len(ids)} tokens.")
        given = [entry[token].logprob for entry, token in zip(entries[1:], ids[1:], strict=True)]
        best = [max(value.logprob for value in entry.values()) for entry in entries[1:]]
        return Scored(given, [value >= top for value, top in zip(given, best, strict=True)])

    def distributions(self, sequences: list[list[int]], visit: Visit) -> None:
        """Taken where vLLM itself computes prompt log-probabilities, before it reduces them to the given tokens.

        `prompt_logprobs=-1` would return the same numbers, as one Python object for each of tokens x vocabulary.
        """
        follow = _Follow(sequences, visit)
        sampler = self._llm.collective_rpc(lambda worker: worker.model_runner.sampler)[0]
        gather = sampler.gather_logprobs

        def listen(logprobs: Any, count: int, token_ids: Any) -> Any:
            follow(token_ids.tolist(), logprobs)
            return gather(logprobs, count, token_ids)

        sampler.gather_logprobs = listen
        try:
            self._generate(sequences, prompt_logprobs=0)
        finally:
            del sampler.gather_logprobs
        follow.finish()

    def _generate(self, sequences: list[list[int]], prompt_logprobs: int | None) -> Any:
        prompts = [{"prompt_token_ids": ids} for ids in sequences]
        params = self._sampling(max_tokens=1, prompt_logprobs=prompt_logprobs, detokenize=False)
        return self._llm.generate(prompts, params, use_tqdm=False)

    def submit(self, key: int, prompt: list[int], max_tokens: int, stop_at_eos: bool) -> None:
        name = str(self._submitted)
        self._submitted += 1
        self._given[name] = key
        params = self._sampling(
            max_tokens=max_tokens,
            temperature=0,
            ignore_eos=not stop_at_eos,
            stop_token_ids=eos_ids(self._artifact) if stop_at_eos else [],
            detokenize=False,
            output_kind=_delta(),
        )
        self._llm.llm_engine.add_request(name, {"prompt_token_ids": prompt}, params)

    def step(self) -> list[Step]:
        if not self._given:
            return []
        steps = []
        for output in self._llm.llm_engine.step():
            key = self._given[output.request_id]
            if output.finished:
                del self._given[output.request_id]
            steps.append(Step(key, list(output.outputs[0].token_ids), output.finished))
        return steps

    def settings(self) -> dict[str, Any]:
        config = self._llm.llm_engine.vllm_config
        return {
            "device": config.device_config.device_type,
            "dtype": str(config.model_config.dtype),
            "quantization": config.model_config.quantization,
            "kv_cache_dtype": str(config.cache_config.cache_dtype),
            "max_model_len": config.model_config.max_model_len,
            "max_num_seqs": config.scheduler_config.max_num_seqs,
            "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
            "enable_prefix_caching": config.cache_config.enable_prefix_caching,
            "enforce_eager": config.model_config.enforce_eager,
            "kv_cache_gib": self._serve.kv_cache_gib,
            "multiprocessing": self._multiprocessing,
            "threads": os.environ["VLLM_CPU_OMP_THREADS_BIND"],
            "int4_w4a8": os.environ["VLLM_CPU_INT4_W4A8"],
        }


class ServingVllmEngine(VllmEngine):
    """Scheduler and model in processes of their own, as `vllm serve` always has them: on few cores that costs a sixth."""

    _multiprocessing = True


def _delta() -> Any:
    from vllm.sampling_params import RequestOutputKind

    return RequestOutputKind.DELTA


class _Follow:
    """Tells which sequence a piece of distributions belongs to: the first open one whose next tokens are the piece's targets.

    vLLM names no request there. Two sequences that agree on all tokens so far have the same distributions so far.
    """

    def __init__(self, sequences: list[list[int]], visit: Visit) -> None:
        self._sequences, self._visit = sequences, visit
        self._done = [0] * len(sequences)  # positions handed over

    def __call__(self, targets: list[int], logprobs: Any) -> None:
        for number, ids in enumerate(self._sequences):
            position = self._done[number]
            if ids[position + 1 : position + 1 + len(targets)] == targets:
                self._done[number] += len(targets)
                self._visit(number, position, logprobs.numpy(force=True))
                return
        raise EvaluationError(f"vLLM scored {len(targets)} tokens that belong to none of the sequences put to it.")

    def finish(self) -> None:
        short = [n for n, ids in enumerate(self._sequences) if self._done[n] != len(ids) - 1]
        if short:
            raise EvaluationError(f"vLLM gave no distributions for {len(short)} of {len(self._sequences)} sequences.")
