"""What the gateway adds to a request's latency, before stand-in servers and on one core; and
whether its memory stays.

    python -m benchmarks.gateway [--rate N] [--seconds N] [--rounds N] [--requests N] [--out FILE]

The same requests, evenly at this rate, every other one streamed, straight to the server and through
the gateway, taking turns. The gateway has a core of its own, server and client share another. Added
is the difference of the medians, and of the 95th percentiles, of each round. Then N requests, 32
in flight, of 50 kinds, a fifth of them kept: resident memory at each tenth."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import psutil

from pipeline.benchmark.speed_statistics import percentiles
from pipeline.engines.server import free_port
from pipeline.runtime import machine

DIGEST = "d1635"
GOALS_MS = {"p50": 3.0, "p95": 8.0}
WARM_UP = 200
IN_FLIGHT, KINDS, MOST_GROWTH = 32, 50, 0.05
Times = list[float]  # milliseconds, sorted


def body(model: str, stream: bool) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What are the opening hours on a Sunday? " * 5}]
    return {"model": model, "messages": messages, "max_tokens": 16, "stream": stream}


async def replay(url: str, model: str, rate: float, seconds: float) -> Times:
    """Every answer's time, from when it was due."""
    times: Times = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(number: int, due: float) -> None:
            wanted = body(model, number % 2 == 1)
            async with session.post(f"{url}/chat/completions", json=wanted) as answer:
                text = await answer.read()
                if answer.status != 200 or b"three" not in text:
                    raise ValueError(f"{answer.status}: {text[:200]!r}")
            times.append(1000 * (time.monotonic() - due))

        await asyncio.gather(*(ask(number, time.monotonic()) for number in range(20)))
        times.clear()
        start, asking = time.monotonic(), []
        for number in range(int(rate * seconds)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            asking.append(asyncio.create_task(ask(number, due)))
        await asyncio.gather(*asking)
    return sorted(times)


@contextmanager
def started(kind: str, core: int | None, options: dict[str, Any]) -> Iterator[str]:
    """On this core, or on any."""
    port = free_port()
    words = [sys.executable, "-m", "tests.gateway", kind, str(port), json.dumps(options)]
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    with subprocess.Popen([*pinned, *words]) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            asyncio.run(_answers(f"{url}/v1/models" if kind == "server" else f"{url}/health"))
            yield f"{url}/v1"
        finally:
            process.terminate()


async def _answers(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(200):
            try:
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise TimeoutError(url)


async def flood(url: str, requests: int) -> list[float]:
    """The gateway's resident memory in MB at each tenth."""
    numbers, answered, memory = itertools.count(), 0, list[float]()
    [gateway] = [
        process
        for process in psutil.Process().children()
        if "gateway" in process.cmdline()
        and url.rsplit(":", maxsplit=1)[-1].removesuffix("/v1") in process.cmdline()
    ]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work() -> None:
            nonlocal answered
            while (number := next(numbers)) < requests:
                wanted = body("chat", number % 2 == 1) | {"max_tokens": 1 + number % KINDS}
                wanted["temperature"] = 0 if number % 5 == 0 else 1
                async with session.post(f"{url}/chat/completions", json=wanted) as answer:
                    text = await answer.read()
                    if answer.status != 200 or b"three" not in text:
                        raise ValueError(f"{answer.status}: {text[:200]!r}")
                answered += 1
                if answered % (requests // 10) == 0:
                    memory.append(gateway.memory_info().rss / 1e6)

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return memory


def run(
    rate: float, seconds: float, rounds: int, requests: int
) -> tuple[list[tuple[Times, Times]], list[float]]:
    """Straight and through the gateway, by round; and its memory."""
    one, other = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {other})
    with started("server", other, {"digest": DIGEST}) as server, _gateway(one, server) as gateway:
        asyncio.run(replay(gateway, "chat", rate, WARM_UP / rate))
        found = []
        for turn in range(rounds):
            ways = [(server, f"its-own@sha256:{DIGEST}"), (gateway, "chat")]
            times = {
                url: asyncio.run(replay(url, model, rate, seconds))
                for url, model in ways[:: 1 if turn % 2 == 0 else -1]
            }
            found.append((times[server], times[gateway]))
        return found, asyncio.run(flood(gateway, requests))


@contextmanager
def _gateway(core: int, server: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        tier = {"bundle": "none", "url": server}
        deploy = {
            "models": {"chat": {"tiers": {"edge": tier}}},
            "usage": f"{folder}/usage.sqlite",
            "cache": {"url": "memory"},
        }
        promise = {"edge": [[1, 5.0, 1.0], [32, 20.0, 2.0]]}
        options = {"deploy": deploy, "digest": {"edge": DIGEST}, "promise": promise}
        with started("gateway", core, options) as url:
            yield url


def page(found: list[tuple[Times, Times]], memory: list[float], given: argparse.Namespace) -> str:
    host, growth = machine.describe(), memory[-1] / memory[0] - 1
    lines = [
        "# What the gateway adds to a request",
        (
            f"`{' '.join(['python -m benchmarks.gateway', *sys.argv[1:]])}`,"
            f" {time.strftime('%Y-%m-%d')}. {given.rate:g} requests a second for {given.seconds:g}"
            f" s, {given.rounds} rounds, taking turns; the gateway on one core."
        ),
        "",
        f"{host['cpu']}, {host['cores']} cores, {host['system']}.",
        "",
        "| | straight, ms | through the gateway, ms | added, ms (lowest to highest round) | aim |",
        "|---|---|---|---|---|",
    ]
    for name, goal in GOALS_MS.items():
        pairs = [tuple(percentiles(times)[name] for times in pair) for pair in found]
        added = sorted(through - straight for straight, through in pairs)
        straight, through = (median(side) for side in zip(*pairs, strict=True))
        met = "met" if median(added) <= goal else "MISSED"
        lines.append(
            f"| {name} | {straight:.2f} | {through:.2f} | {median(added):.2f} ({added[0]:.2f} to"
            f" {added[-1]:.2f}) | {goal:g}: {met} |"
        )
    lines += [
        "",
        f"{given.requests} requests at {IN_FLIGHT} in flight, all answered: resident memory"
        f" {memory[0]:.0f} MB after the first tenth, {memory[-1]:.0f} after the last"
        f" ({growth:+.1%}; the aim is below {MOST_GROWTH:.0%}:"
        f" {'met' if growth < MOST_GROWTH else 'MISSED'}).",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gateway.md"))
    given = parser.parse_args()
    found, memory = run(given.rate, given.seconds, given.rounds, given.requests)
    text = page(found, memory, given)
    given.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
