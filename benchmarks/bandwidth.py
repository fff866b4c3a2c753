"""How many bytes per second this machine's cores can read from memory together: what decoding at
batch 1 is bound by.

    python -m benchmarks.bandwidth        (in an environment with torch; prints JSON)

The best of several passes over 2 GiB, as STREAM reports it (McCalpin 1995), reading only: torch's
sum and maximum. A loop in C over huge pages came to the same 57 GB/s as the sum where this was
written; a matrix-vector product in torch did not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import torch

BYTES = 2 << 30
PASSES = 15


def measure() -> dict[str, float]:
    """GB/s of each way."""
    words = torch.ones(BYTES // 4)
    ways: dict[str, Callable[[], Any]] = {"sum": words.sum, "max": words.max}
    return {
        name: BYTES / 1e9 / min(_seconds(way) for _ in range(PASSES)) for name, way in ways.items()
    }


def _seconds(way: Callable[[], Any]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps(measure()))
