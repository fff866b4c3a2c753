"""The scripts of benchmarks.by_hand that a user would copy from the tools' pages, in the tools' own
environments.

quantize METHOD SOURCE SAMPLES GROUP_SIZE OUT GPTQModel's example, on the CPU perplexity ENGINE
MODEL TEXTS exp of the mean loss over whole windows speed MODEL TRACE REPEATS OUTPUT_TOKENS
CONCURRENCY ... GenAI: as many requests at a time, all of the trace each time"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any


def quantize(method: str, source: str, samples: str, group_size: str, out: str) -> None:
    """https://github.com/ModelCloud/GPTQModel, README: load, quantize, save."""
    os.environ.setdefault(
        "GPTQMODEL_CPU_WORKERS", "2"
    )  # with 2 cores or fewer it does not start without it
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
    from gptqmodel.quantization import FORMAT, METHOD

    rows = [
        {"input_ids": ids, "attention_mask": [1] * len(ids)}
        for ids in json.loads(Path(samples).read_text())["ids"]
    ]
    settings: dict[str, Any] = {"bits": 4, "group_size": int(group_size), "device": "cpu"}
    if method == "awq":
        settings |= {"sym": False, "method": METHOD.AWQ, "format": FORMAT.GEMM}
    model = GPTQModel.load(source, QuantizeConfig(**settings))
    model.quantize(
        rows, batch_size=4, **({"backend": BACKEND.AWQ_TORCH} if method == "awq" else {})
    )
    model.save(out)


def perplexity(engine: str, model: str, texts: str) -> None:
    """https://huggingface.co/docs/transformers/perplexity, over windows that do not overlap."""
    rows = [row for text in json.loads(Path(texts).read_text())["texts"] for row in text["windows"]]
    losses = _vllm_losses(model, rows) if engine == "vllm" else _torch_losses(engine, model, rows)
    print(f"perplexity {math.exp(sum(losses) / len(losses)):.4f}")


def _torch_losses(engine: str, model: str, rows: list[list[int]]) -> list[float]:
    import torch
    from transformers import AutoModelForCausalLM

    if engine == "openvino":
        from optimum.intel import OVModelForCausalLM

        loaded: Any = OVModelForCausalLM.from_pretrained(model)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    losses = []
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([row])
            logits = (
                loaded(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1].float()
            )
            losses.append(float(torch.nn.functional.cross_entropy(logits, ids[0, 1:])))
    return losses


def _vllm_losses(model: str, rows: list[list[int]]) -> list[float]:
    from vllm import LLM, SamplingParams

    llm = LLM(model, dtype="bfloat16", max_model_len=max(map(len, rows)) + 1, enforce_eager=True)
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    losses = []
    for row, answer in zip(
        rows, llm.generate([{"prompt_token_ids": row} for row in rows], params), strict=True
    ):
        found = [
            entry[token].logprob
            for entry, token in zip(answer.prompt_logprobs[1:], row[1:], strict=True)
        ]
        losses.append(-sum(found) / len(found))
    return losses


def speed(model: str, trace: str, repeats: str, output_tokens: str, *concurrency: str) -> None:
    """As OpenVINO GenAI's benchmark_genai.py: warm up, generate, take the metrics."""
    import openvino
    import openvino_genai

    prompts = [request["prompt"] for request in json.loads(Path(trace).read_text())["requests"]]
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        model, openvino_genai.SchedulerConfig(), "CPU"
    )
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos = int(output_tokens), True
    for level in map(int, concurrency):
        for _ in range(int(repeats) + 1):  # the first is the warm-up
            start = time.monotonic()
            for first in range(0, len(prompts), level):
                part = [openvino.Tensor([ids]) for ids in prompts[first : first + level]]
                pipeline.generate(part, [config] * len(part))
            print(
                f"at {level}: {len(prompts) * int(output_tokens) / (time.monotonic() - start):.1f}"
                " output tokens/s"
            )


if __name__ == "__main__":
    {"quantize": quantize, "perplexity": perplexity, "speed": speed}[sys.argv[1]](*sys.argv[2:])
