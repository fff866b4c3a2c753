"""How much memory and how many cores a server gets, from what was measured of its artifact."""

from __future__ import annotations

import math

from pipeline.capabilities import ENGINES
from pipeline.recipe import Serve
from pipeline.records import Benchmark

MIB, GIB = 1 << 20, 1 << 30
# Of the engine's measured peak: its process grew by 7 % over 10,000 requests (docs/serving.md).
HEADROOM = 1.15
# Of the processes beside the engine's, which the benchmark does not have: `quantgate serve`, which
# has read the bundle's records (200 MiB on tiny), and the HTTP server (55 MiB).
BESIDE = 512 * MIB
GATEWAY = GIB  # a guess: it holds the records of all bundles, requests and answers
STEP = 64 * MIB


def memory_bytes(benchmark: Benchmark, serve: Serve) -> int | None:
    """The limit for one server; None where nothing was measured. A KV cache that its engine takes
    block by block may not have been full while it was measured: all of it is added."""
    deployed = benchmark.profiles.get("deployed")
    if deployed is None or deployed.peak_memory_bytes is None:
        return None
    engine = ENGINES[benchmark.engine]
    cache = 0 if engine.costs.takes_cache else serve.kv_cache_gib * GIB
    return _up(deployed.peak_memory_bytes * HEADROOM + cache + BESIDE)


def gateway_bytes(cache_mib: int) -> int:
    """`cache_mib`: of answers in its own memory."""
    return _up(GATEWAY + 2 * cache_mib * MIB)


def redis_bytes(cache_mib: int) -> int:
    """Fragments and clients' buffers, and Redis itself, beside the answers."""
    return _up((2 * cache_mib + 64) * MIB)


def cores(benchmark: Benchmark, serve: Serve) -> int | None:
    """Those that it was measured on; None where the record does not say."""
    machine = benchmark.machine
    there: int | None = len(machine.get("cores_allowed") or []) or machine.get("cores")
    return min(serve.threads, there or serve.threads) if serve.threads else there


def _up(size: float) -> int:
    return math.ceil(size / STEP) * STEP
