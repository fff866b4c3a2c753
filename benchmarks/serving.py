"""quantgate's own server under load: is every request answered, once and with its own text, and
does its memory stay?

    python -m benchmarks.serving ARTIFACT [--requests N] [--in-flight N] [--out FILE]

ARTIFACT is an OpenVINO artifact, such as artifacts/models/tiny/ov-int8. Requests of 50 kinds, every
other one streamed, of 8 to 32 tokens; an answer must be the text that its kind got when it was
asked alone. Memory is resident, of the server's process and of the engine's, at each tenth. Before,
long prompts are sent until the engine's memory stays: it touches the KV cache block by block."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from pipeline.engines import server
from pipeline.engines.server import Served
from pipeline.recipe import Serve
from pipeline.runtime import machine

KINDS = 50
WARM_UP, ENOUGH_MB = 500, 2.0  # long prompts at a time, until the memory grows by less
MOST_GROWTH = 0.05
SERVE = Serve(max_model_len=256, max_num_seqs=32, max_num_batched_tokens=256, kv_cache_gib=1)


@dataclass
class Load:
    """What came of it. `memory`: MB of the server and of the engine, at each tenth."""

    warmed_up: int = 0
    answered: int = 0
    other_text: int = 0
    errors: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0.0


def body(kind: int, stream: bool) -> dict[str, Any]:
    prompt = [2 + (kind * 7 + place) % 200 for place in range(4 + kind % 13)]
    return {
        "model": "served",
        "prompt": prompt,
        "max_tokens": 8 + kind % 25,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
    }


async def ask(session: aiohttp.ClientSession, url: str, kind: int, stream: bool) -> str:
    async with session.post(f"{url}/completions", json=body(kind, stream)) as answer:
        text = await answer.text()
        if answer.status != 200:
            raise ValueError(f"{answer.status}: {text[:200]}")
    if not stream:
        return str(json.loads(text)["choices"][0]["text"])
    *events, done = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    if done != "[DONE]":
        raise ValueError(f"a stream ended with {done[:200]}")
    return "".join(json.loads(event)["choices"][0]["text"] for event in events)


async def fill(session: aiohttp.ClientSession, url: str) -> int:
    """Sends long prompts until the KV cache was touched. Returns how many."""
    long = {"model": "served", "prompt": [7] * (SERVE.max_model_len - 2), "max_tokens": 1}
    sent, before = 0, 0.0

    async def send() -> None:
        async with session.post(f"{url}/completions", json=long) as answer:
            await answer.read()

    while (now := resident()[1]) - before > ENOUGH_MB:
        before = now
        for _ in range(WARM_UP // SERVE.max_num_seqs + 1):
            await asyncio.gather(*(send() for _ in range(SERVE.max_num_seqs)))
            sent += SERVE.max_num_seqs
    return sent


async def run(url: str, requests: int, in_flight: int) -> Load:
    load, numbers = Load(), itertools.count()
    connections = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connections) as session:
        load.warmed_up = await fill(session, url)
        alone = [await ask(session, url, kind, False) for kind in range(KINDS)]

        async def work() -> None:
            while (number := next(numbers)) < requests:
                kind = number % KINDS
                try:
                    text = await ask(session, url, kind, stream=number % 2 == 1)
                except (ValueError, aiohttp.ClientError) as error:
                    load.errors.append(str(error))
                    continue
                load.answered += 1
                load.other_text += text != alone[kind]
                if load.answered % (requests // 10) == 0:
                    load.memory.append(resident())

        start = time.monotonic()
        await asyncio.gather(*(work() for _ in range(in_flight)))
        load.seconds = time.monotonic() - start
    return load


def resident() -> tuple[float, float]:
    """MB of the server's process and of the engine's."""
    sizes = {
        "pipeline.serving.worker" in " ".join(process.cmdline()): process.memory_info().rss / 1e6
        for process in psutil.Process().children(recursive=True)
    }
    return sizes[False], sizes[True]


def page(load: Load, given: argparse.Namespace) -> str:
    host = machine.describe()
    (first, first_engine), (last, last_engine) = load.memory[0], load.memory[-1]
    growth, growth_engine = last / first - 1, last_engine / first_engine - 1
    met = "met" if max(growth, growth_engine) < MOST_GROWTH else "MISSED"
    lines = [
        "# quantgate's own server under load",
        (
            f"`{' '.join(['python -m benchmarks.serving', *sys.argv[1:]])}`,"
            f" {time.strftime('%Y-%m-%d')}. {given.requests} requests, {given.in_flight} in flight,"
            f" every other one streamed: {given.requests / load.seconds:.0f} a second; before,"
            f" {load.warmed_up} of {SERVE.max_model_len - 2} tokens that fill the KV cache of"
            f" {SERVE.kv_cache_gib} GiB."
        ),
        "",
        (
            f"Answered: {load.answered}; errors: {len(load.errors)}; with another text than alone:"
            f" {load.other_text} (a batch rounds otherwise than one request)."
        ),
        "",
        f"Growth from the first tenth to the last: server {growth:.1%}, engine"
        f" {growth_engine:.1%}; the aim is below {MOST_GROWTH:.0%}: {met}.",
        "",
        "| answered | server, MB | engine, MB |",
        "|---|---|---|",
    ]
    lines += [
        f"| {(place + 1) * given.requests // 10} | {own:.0f} | {engine:.0f} |"
        for place, (own, engine) in enumerate(load.memory)
    ]
    lines += [
        *(["", *load.errors[:5]] if load.errors else []),
        "",
        f"{host['cpu']}, {host['cores']} cores ({', '.join(host['instruction_sets'])}),"
        f" {host['system']}.",
    ]
    return "\n".join(lines) + "\n"


def main(given: argparse.Namespace) -> None:
    what = Served("openvino", given.artifact.resolve(), SERVE, "served")
    with tempfile.TemporaryDirectory() as folder, server.served(what, Path(folder)) as running:
        load = asyncio.run(run(running.url, given.requests, given.in_flight))
    text = page(load, given)
    given.out.write_text(text)
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/serving.md"))
    main(parser.parse_args())
