"""What the gateway adds to a request's latency, before stand-in servers and on one core.

    python -m benchmarks.gateway [--rate N] [--seconds N] [--rounds N] [--out FILE]

The same requests, evenly at this rate, every other one streamed, straight to the server and through
the gateway, taking turns. The gateway has a core of its own, server and client share another. Added
is the difference of the medians, and of the 95th percentiles, of each round."""

from __future__ import annotations

import argparse
import asyncio
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

from pipeline.benchmark.speed_statistics import percentiles
from pipeline.engines.server import free_port
from pipeline.runtime import machine

DIGEST = "d1635"
GOALS_MS = {"p50": 3.0, "p95": 8.0}
WARM_UP = 200
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


def run(rate: float, seconds: float, rounds: int) -> list[tuple[Times, Times]]:
    """Straight and through the gateway, by round."""
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
        return found


@contextmanager
def _gateway(core: int, server: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        tier = {"bundle": "none", "url": server}
        deploy = {"models": {"chat": {"tiers": {"edge": tier}}}, "usage": f"{folder}/usage.sqlite"}
        promise = {"edge": [[1, 5.0, 1.0], [32, 20.0, 2.0]]}
        options = {"deploy": deploy, "digest": {"edge": DIGEST}, "promise": promise}
        with started("gateway", core, options) as url:
            yield url


def page(found: list[tuple[Times, Times]], given: argparse.Namespace) -> str:
    host = machine.describe()
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
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gateway.md"))
    given = parser.parse_args()
    text = page(run(given.rate, given.seconds, given.rounds), given)
    given.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
