"""The trace replayed on any OpenAI-compatible server, by vLLM's own load generator (`vllm bench
serve`). Worker side.

The generator sends and takes the times; here its results become replays. In the closed loop a
request is due when it is sent; in the open loop at its arrival, so that a generator or server that
falls behind shows in TTFT. Token counts are the server's own (`usage`). The bearer token, if one is
needed, is OPENAI_API_KEY, read by the generator."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline import engines
from pipeline.errors import EvaluationError
from pipeline.records import Replay, RequestTiming, Trace, TracedRequest, read
from pipeline.runtime import machine

# of each load before it is first timed; one round before every later time, which opens connections
WARM_UP_ROUNDS = 2
KIND = "quantgate"
NO_USAGE = (
    "the server sent no usage, so that its tokens cannot be counted (it must honour"
    " stream_options.include_usage)"
)
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def converse(job: dict[str, Any], asked: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Worker verb: asked for {"loads": [...], "repeat": n}, it answers {"replays": [...]}, as
    pipeline.benchmark.session does.

    The job: url (with its /v1), model, trace (a file), tokenizer (a folder, for a server that takes
    text only, or None), timeout_s of a request, and pid, the root of the process tree that counts
    as the benchmark's own."""
    if urlsplit(job["url"]).hostname in LOOPBACK:
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(LOOPBACK)
    trace = read(Path(job["trace"]), Trace).requests
    load = _Load(job, trace, _texts(Path(job["tokenizer"]), trace) if job["tokenizer"] else None)
    load.check()
    yield {"versions": {name: version(name) for name in engines.ENGINES["vllm"].packages}}
    for order in asked:
        yield {
            "replays": [load.replay(one, order["repeat"]).model_dump() for one in order["loads"]]
        }


def _texts(folder: Path, trace: list[TracedRequest]) -> list[str]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    # The server's tokenizer puts its own special tokens in front.
    return [tokenizer.decode(request.prompt, skip_special_tokens=True) for request in trace]


class _Sender:
    """The generator's own request function, with a time limit, and strict about what counts as an
    answer."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.ended = 0.0  # when the last request did, on the generator's clock

    async def __call__(self, request_func_input: Any, session: Any, pbar: Any = None) -> Any:
        from vllm.benchmarks.lib.endpoint_request_func import (
            RequestFuncOutput,
            async_request_openai_completions,
        )

        start = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                output = await async_request_openai_completions(request_func_input, session, pbar)
        except TimeoutError:
            output = RequestFuncOutput(
                start_time=start, error=f"no whole answer within {self._timeout_s:.0f} s"
            )
        if output.success and not output.output_tokens:
            output.success, output.error = False, NO_USAGE
        self.ended = time.perf_counter()
        return output


class _Load:
    def __init__(
        self, job: dict[str, Any], trace: list[TracedRequest], texts: list[str] | None
    ) -> None:
        self._url, self._model, self._pid = job["url"], job["model"], job["pid"]
        self._trace, self._texts = trace, texts
        self._sender = _Sender(job["timeout_s"])

    def check(self) -> None:
        """One request, so that what is wrong with all of them is said at once. Raises
        EvaluationError."""
        generated = self._generate({"concurrency": 1}, 1, 0)
        if error := _last_line(generated["errors"][0]):
            raise EvaluationError(
                f"{self._url}: a first request failed: {error}. {self._explained()}"
            )

    def replay(self, load: dict[str, Any], repeat: int) -> Replay:
        """`load` is {"concurrency": n} or {"rate_per_s": r, "fraction": f}."""
        warm_ups = (WARM_UP_ROUNDS if repeat == 0 else 1) * load.get("concurrency", 1)
        before = machine.processor(self._pid)
        generated = self._generate(load, len(self._trace), warm_ups)
        # The generator does not tell when it began, but how long it took, and its last request
        # ended it.
        began = self._sender.ended - generated["duration"]
        requests = [
            self._timing(number, generated, began, load.get("rate_per_s"))
            for number in range(len(self._trace))
        ]
        tokens_s = [at for request in requests for at in request.arrivals_s]
        whole = tokens_s and not any(request.error for request in requests)
        end_s = max(tokens_s) if whole else generated["duration"]
        return Replay(
            loop="closed" if "concurrency" in load else "open",
            repeat=repeat,
            wall_s=end_s - min(request.due_s for request in requests),
            others_share=machine.others_share(before, machine.processor(self._pid)),
            requests=requests,
            **load,
        )

    def _timing(
        self, number: int, generated: dict[str, Any], began: float, rate_per_s: float | None
    ) -> RequestTiming:
        request = self._trace[number]
        sent_s = generated["start_times"][number] - began
        gaps_s = (
            [generated["ttfts"][number], *generated["itls"][number]]
            if generated["ttfts"][number]
            else []
        )
        counted = generated["input_lens"][number]
        error = _last_line(generated["errors"][number])
        if not error and self._texts is None and counted != len(request.prompt):
            error = f"the server counted {counted} prompt tokens, {len(request.prompt)} were sent"
        return RequestTiming(
            due_s=round(request.arrival / rate_per_s if rate_per_s else sent_s, 6),
            arrivals_s=[round(sent_s + after_s, 6) for after_s in itertools.accumulate(gaps_s)],
            prompt_tokens=counted,
            wanted=request.output_tokens,
            tokens=generated["output_lens"][number],
            error=error,
        )

    def _generate(self, load: dict[str, Any], count: int, warm_ups: int) -> dict[str, Any]:
        from vllm.benchmarks import serve
        from vllm.benchmarks.datasets import SampleRequest
        from vllm.benchmarks.lib.endpoint_request_func import ASYNC_REQUEST_FUNCS

        rate_per_s = load.get("rate_per_s", math.inf)
        requests = [
            SampleRequest(
                prompt=self._prompt(number),
                prompt_len=len(request.prompt),
                expected_output_len=request.output_tokens,
                timestamp=request.arrival / rate_per_s,  # 0 in the closed loop
            )
            for number, request in enumerate(self._trace[:count])
        ]
        ASYNC_REQUEST_FUNCS[KIND] = self._sender
        root = urlsplit(self._url)
        with contextlib.redirect_stdout(io.StringIO()):  # a page of its own figures each time
            generated: dict[str, Any] = asyncio.run(
                serve.benchmark(
                    task_type=serve.TaskType.GENERATION,
                    endpoint_type=KIND,
                    api_url=f"{self._url}/completions",
                    base_url=f"{root.scheme}://{root.netloc}",
                    model_id=self._model,
                    model_name=self._model,
                    tokenizer=None,
                    input_requests=requests,
                    logprobs=None,
                    request_rate=math.inf,
                    burstiness=1.0,
                    disable_tqdm=True,
                    num_warmups=warm_ups,
                    profile=False,
                    selected_percentile_metrics=[],
                    selected_percentiles=[],
                    ignore_eos=True,
                    goodput_config_dict={},
                    max_concurrency=load.get("concurrency"),
                    lora_modules=None,
                    extra_headers=None,
                    extra_body={"temperature": 0},
                    ready_check_timeout_sec=0,
                    self_timed=True,
                )
            )
        return generated

    def _prompt(self, number: int) -> str | list[int]:
        return self._texts[number] if self._texts else self._trace[number].prompt

    def _explained(self) -> str:
        """What the server says to the same request, which the generator does not keep."""
        try:
            call(
                f"{self._url}/completions",
                {"model": self._model, "prompt": self._prompt(0), "max_tokens": 1},
            )
        except urllib.error.HTTPError as error:
            return (
                "The server's answer:"
                f" {error.read(500).decode(errors='replace').strip() or error.reason}"
            )
        except OSError as error:
            return f"Is the server up? ({error})"
        return "The same request without streaming succeeded."


def call(url: str, body: dict[str, Any] | None = None) -> bytes:
    """One plain request, outside what is timed. Raises OSError."""
    key = os.environ.get("OPENAI_API_KEY")
    headers = {"Content-Type": "application/json"} | (
        {"Authorization": f"Bearer {key}"} if key else {}
    )
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, headers)  # noqa: S310  (remote.py lets only http and https through)
    with urllib.request.build_opener().open(request, timeout=60) as answer:
        return bytes(answer.read())


def _last_line(error: str) -> str | None:
    """The generator keeps whole tracebacks."""
    return error.strip().splitlines()[-1][:300] if error.strip() else None
