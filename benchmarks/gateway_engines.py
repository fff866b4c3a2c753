"""Real engines by themselves and behind the gateway: time to the first token, and throughput.

    python -m benchmarks.gateway_engines ENGINE ARTIFACT [--in-flight N] [--rounds N] [--out FILE]

ENGINE is openvino or vllm, ARTIFACT such as artifacts/models/tiny/ov-int8. Streamed requests of 64
prompt and 64 output tokens, N at once, straight to the engine's server and through the gateway,
taking turns. All on the same cores: what the gateway needs, the engine has not."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from benchmarks.gateway import DIGEST, started
from pipeline.engines import server
from pipeline.engines.server import Served
from pipeline.recipe import Serve
from pipeline.runtime import machine

SERVE = Serve(max_model_len=256, max_num_seqs=8, max_num_batched_tokens=256, kv_cache_gib=1)
TOKENS = 64
GOAL_TTFT_MS, GOAL_RATIO = 5.0, 0.95
NAME = "served"
TEXT = re.compile(rb'"text": ?"[^"]')  # of an event; the first may have none yet


@dataclass(frozen=True)
class Round:
    """`ttft_ms`: the median."""

    ttft_ms: float
    tokens_per_s: float


def body(model: str, number: int) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": [2 + (number * 7 + place * 3) % 200 for place in range(TOKENS)],
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


async def replay(url: str, model: str, requests: int, in_flight: int) -> Round:
    first, numbers = list[float](), itertools.count()
    async with aiohttp.ClientSession() as session:

        async def work() -> None:
            while (number := next(numbers)) < requests:
                start = time.monotonic()
                wanted = body(model, number)
                async with session.post(f"{url}/completions", json=wanted) as answer:
                    if answer.status != 200:
                        raise ValueError(await answer.text())
                    last, told = b"", False
                    async for line in answer.content:
                        last = line.strip() or last
                        if not told and TEXT.search(line):
                            told = True
                            first.append(1000 * (time.monotonic() - start))
                    if last != b"data: [DONE]":
                        raise ValueError("a stream did not end")

        start = time.monotonic()
        await asyncio.gather(*(work() for _ in range(in_flight)))
        return Round(median(first), requests * TOKENS / (time.monotonic() - start))


def run(given: argparse.Namespace) -> dict[str, list[Round]]:
    what = Served(given.engine, given.artifact.resolve(), SERVE, NAME, DIGEST)
    with tempfile.TemporaryDirectory() as folder, server.served(what, Path(folder)) as engine:
        deploy = {
            "models": {"chat": {"tiers": {"edge": {"bundle": "none", "url": engine.url}}}},
            "usage": f"{folder}/usage.sqlite",
        }
        options = {"deploy": deploy, "digest": {"edge": DIGEST}, "promise": {}}
        with started("gateway", None, options) as gateway:
            ways = {"straight": (engine.url, what.pinned), "gateway": (gateway, "chat")}
            rounds: dict[str, list[Round]] = {way: [] for way in ways}
            asyncio.run(replay(*ways["straight"], given.requests, given.in_flight))
            for turn in range(given.rounds):
                for way in list(ways)[:: 1 if turn % 2 == 0 else -1]:
                    one = asyncio.run(replay(*ways[way], given.requests, given.in_flight))
                    rounds[way].append(one)
                    print(way, one, flush=True)
            return rounds


def page(rounds: dict[str, list[Round]], given: argparse.Namespace) -> str:
    host = machine.describe()
    pairs = list(zip(rounds["straight"], rounds["gateway"], strict=True))
    added = sorted(through.ttft_ms - straight.ttft_ms for straight, through in pairs)
    ratio = sorted(through.tokens_per_s / straight.tokens_per_s for straight, through in pairs)
    ttft = "met" if median(added) <= GOAL_TTFT_MS else "MISSED"
    rate = "met" if median(ratio) >= GOAL_RATIO else "MISSED"
    medians = {
        way: (median(one.ttft_ms for one in each), median(one.tokens_per_s for one in each))
        for way, each in rounds.items()
    }
    return "\n".join(
        [
            f"## {given.engine}, {given.artifact.name}",
            (
                f"`{' '.join(['python -m benchmarks.gateway_engines', *sys.argv[1:]])}`,"
                f" {time.strftime('%Y-%m-%d')}: {given.requests} requests, {given.in_flight} at"
                f" once, {given.rounds} rounds."
            ),
            "",
            "| | TTFT at the median, ms | output tokens/s |",
            "|---|---|---|",
            *(f"| {way} | {ms:.1f} | {speed:.0f} |" for way, (ms, speed) in medians.items()),
            "",
            f"Added to TTFT: {median(added):.1f} ms ({added[0]:.1f} to {added[-1]:.1f}); the aim is"
            f" {GOAL_TTFT_MS:g} at most: {ttft}. Throughput: {median(ratio):.3f} of the server's"
            f" own ({ratio[0]:.3f} to {ratio[-1]:.3f}); the aim is {GOAL_RATIO} at least: {rate}.",
            "",
            f"{host['cpu']}, {host['cores']} cores, {host['system']}.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=["openvino", "vllm"])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="appended to")
    given = parser.parse_args()
    text = page(run(given), given)
    if given.out:
        with given.out.open("a") as out:
            out.write(f"\n{text}")
    print(text)


if __name__ == "__main__":
    main()
