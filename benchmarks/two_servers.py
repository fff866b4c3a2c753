"""Two OpenAI servers of the same model that run already: tokens per second over their chats.

    python -m benchmarks.two_servers URL MODEL URL MODEL [--in-flight N ...] [--rounds N]

A URL ends in /v1. Whole answers of up to 64 tokens at temperature 0, as each server counts them,
taking turns; the other server idles meanwhile."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from pipeline.runtime import machine

TOKENS = 64
QUESTIONS = (
    "Tell me about the history of bread.",
    "How does a bicycle stay upright?",
    "Write a short story about a lighthouse.",
    "Which animals sleep in winter, and why?",
)


async def ask(session: aiohttp.ClientSession, url: str, model: str, number: int) -> int:
    """The tokens that came."""
    wanted: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
        "max_tokens": TOKENS,
        "temperature": 0,
    }
    async with session.post(f"{url}/chat/completions", json=wanted) as answer:
        if answer.status != 200:
            raise ValueError(await answer.text())
        return int((await answer.json())["usage"]["completion_tokens"])


async def replay(url: str, model: str, requests: int, in_flight: int) -> float:
    """Output tokens per second."""
    numbers, tokens = itertools.count(), 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def work() -> None:
            nonlocal tokens
            while (number := next(numbers)) < requests:
                tokens += await ask(session, url, model, number)

        start = time.monotonic()
        await asyncio.gather(*(work() for _ in range(in_flight)))
        return tokens / (time.monotonic() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("one", nargs=2, metavar=("URL", "MODEL"))
    parser.add_argument("other", nargs=2, metavar=("URL", "MODEL"))
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="appended to")
    given = parser.parse_args()
    lines = [
        f"`{' '.join(['python -m benchmarks.two_servers', *sys.argv[1:]])}`,"
        f" {time.strftime('%Y-%m-%d')}: medians of {given.rounds} rounds of {given.requests}.",
        "",
        "| requests at once | first, tokens/s | second, tokens/s | ratio (lowest to highest) |",
        "|---|---|---|---|",
    ]
    for in_flight in given.in_flight:
        pairs = []
        for turn in range(given.rounds):
            ways = [given.one, given.other][:: 1 if turn % 2 == 0 else -1]
            speeds = [asyncio.run(replay(*way, given.requests, in_flight)) for way in ways]
            pairs.append(speeds[:: 1 if turn % 2 == 0 else -1])
            print(in_flight, pairs[-1], flush=True)
        ratios = sorted(first / second for first, second in pairs)
        first, second = (median(side) for side in zip(*pairs, strict=True))
        lines.append(
            f"| {in_flight} | {first:.1f} | {second:.1f} | {median(ratios):.2f}"
            f" ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
        )
    host = machine.describe()
    text = "\n".join([*lines, "", f"{host['cpu']}, {host['cores']} cores, {host['system']}.", ""])
    if given.out:
        with given.out.open("a") as out:
            out.write(f"\n{text}")
    print(text)


if __name__ == "__main__":
    main()
