"""vLLM in process: one LLM scores (its hidden states, projected where asked for) and decodes;
prefix caching is off.

With prefix caching on, prompt log-probabilities can be stale (vllm-project/vllm#42245).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

from pipeline.engines import Prompt, Sampling, Step, Visit, cores, eos_ids, piece_rows
from pipeline.errors import EvaluationError
from pipeline.recipe import Serve

# vLLM has no class of its own for what it does not load.
UNLOADABLE = (
    AssertionError,
    AttributeError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


def arguments(serve: Serve) -> dict[str, Any]:
    """The recipe's settings under vLLM's own names: for LLM() here, and as options of `vllm serve`
    in pipeline/engines/vllm_server."""
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
        # vLLM's default, spelled out and recorded: with AMX, int4 layers run as W4A8. Turned off,
        # its W4A16 kernel dies with an illegal instruction, since nobody asks the kernel for the
        # AMX permission (docs/decisions.md).
        "VLLM_CPU_INT4_W4A8": "1",
    }


class VllmEngine:
    _multiprocessing = (
        False  # `distributions` reads off the model runner, which has to be in this process
    )

    def __init__(self, artifact: Path, serve: Serve) -> None:
        self._artifact, self._serve = artifact, serve
        self._given: dict[str, int] = {}
        self._submitted = 0

    def __enter__(self) -> Self:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(self._multiprocessing))
        os.environ.update(environment(self._serve))
        from vllm import LLM, SamplingParams

        self._sampling = SamplingParams
        try:
            self._llm = LLM(str(self._artifact), **arguments(self._serve))
        except UNLOADABLE as error:
            message = " ".join(str(error).split())
            raise EvaluationError(
                f"vLLM does not load {self._artifact}: {type(error).__name__}: {message[:300]}"
            ) from error
        return self

    def __exit__(self, *exc: object) -> None:
        del self._llm

    def echo(self, ids: list[int]) -> list[float]:
        """By vLLM's public `prompt_logprobs`."""
        entries = self._prefill([ids], prompt_logprobs=0)[0].prompt_logprobs
        if entries is None or len(entries) != len(ids):
            raise EvaluationError(
                f"vLLM returned no log-probabilities for a prompt of {len(ids)} tokens."
            )
        return [entry[token].logprob for entry, token in zip(entries[1:], ids[1:], strict=True)]

    def distributions(self, prompts: list[Prompt], visit: Visit) -> None:
        """Taken where vLLM would compute prompt log-probabilities, at the positions asked for
        alone.

        `prompt_logprobs` projects every position of a prompt onto the vocabulary, and returns an
        object for each token."""
        runner = self._llm.collective_rpc(lambda worker: worker.model_runner)[0]
        follow = _Follow(prompts, visit, runner)
        runner._get_prompt_logprobs_dict = follow
        try:
            self._prefill([list(ids) for ids in follow.waiting], prompt_logprobs=None)
        finally:
            del runner._get_prompt_logprobs_dict
        follow.finish()

    def _prefill(self, sequences: list[list[int]], prompt_logprobs: int | None) -> Any:
        prompts = [{"prompt_token_ids": ids} for ids in sequences]
        params = self._sampling(
            max_tokens=1, temperature=0, prompt_logprobs=prompt_logprobs, detokenize=False
        )
        return self._llm.generate(prompts, params, use_tqdm=False)

    def submit(self, key: int, prompt: list[int], sampling: Sampling) -> None:
        sampling.require_greedy("vLLM in process")  # its own server samples
        name = str(self._submitted)
        self._submitted += 1
        self._given[name] = key
        params = self._sampling(
            max_tokens=sampling.max_tokens,
            temperature=0,
            ignore_eos=sampling.ignore_eos,
            stop_token_ids=[] if sampling.ignore_eos else eos_ids(self._artifact),
            detokenize=False,
            output_kind=_delta(),
        )
        self._llm.llm_engine.add_request(name, {"prompt_token_ids": prompt}, params)

    def cancel(self, key: int) -> None:
        names = [name for name, given in self._given.items() if given == key]
        self._llm.llm_engine.abort_request(names)
        for name in names:
            del self._given[name]

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
    """Scheduler and model in processes of their own, as `vllm serve` always has them: on few cores
    that costs a sixth."""

    _multiprocessing = True


def _delta() -> Any:
    from vllm.sampling_params import RequestOutputKind

    return RequestOutputKind.DELTA


class _Follow:
    """Called by vLLM's model runner after each step, in place of its own prompt
    log-probabilities."""

    def __init__(self, prompts: list[Prompt], visit: Visit, runner: Any) -> None:
        self._visit, self._runner = visit, runner
        self._size = piece_rows(runner.model_config.get_vocab_size())
        # A request has no name here that we gave it. Prompts of the same tokens are put to vLLM
        # once.
        self.waiting: dict[tuple[int, ...], list[int]] = {}
        for number, prompt in enumerate(prompts):
            self.waiting.setdefault(tuple(prompt.ids), []).append(number)
        self._next = [prompt.first for prompt in prompts]
        self._lengths = [len(prompt.ids) for prompt in prompts]

    def __call__(self, hidden_states: Any, scheduled: dict[str, int]) -> dict[str, Any]:
        runner = self._runner
        for name, count in scheduled.items():
            request = runner.requests[name]
            begin, ids = request.num_computed_tokens, tuple(request.prompt_token_ids)
            offset = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[name]])
            stop = min(begin + count, len(ids))
            for number in self.waiting.get(ids, ()):
                for first in range(max(self._next[number], begin), stop, self._size):
                    last = min(first + self._size, stop)
                    rows = hidden_states[offset + first - begin : offset + last - begin]
                    logprobs = runner.sampler.compute_logprobs(runner.model.compute_logits(rows))
                    self._visit(number, first, logprobs.numpy(force=True))
                    self._next[number] = last
        return {}

    def finish(self) -> None:
        short = sum(
            place != length for place, length in zip(self._next, self._lengths, strict=True)
        )
        if short:
            raise EvaluationError(
                f"vLLM gave no distributions for {short} of {len(self._next)} prompts."
            )
