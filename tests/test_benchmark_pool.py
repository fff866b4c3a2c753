"""Which engines stay open between their turns: never more than memory has room for, by what each
took in its turn, whatever the machine says is free before the next one's KV cache is filled."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import recipe
from pipeline.runtime.machine import Memory
from pipeline.stages import benchmark_pool
from pipeline.stages.benchmark_pool import ROOM_SHARE, Measured, Turn

GIB = 1 << 30
NAMES = ("ov-bf16", "ov-int8", "ov-int4", "vllm-bf16", "gptq-int4", "awq-int4")
TURNS = [Turn(name, "deployed") for name in NAMES]


class Engines:
    """Those that are open, in place of real ones, with what each takes when it works."""

    def __init__(self, takes_bytes: int) -> None:
        self.open: set[str] = set()
        self.started: list[str] = []
        self.most = 0
        self._takes_bytes = takes_bytes

    def session(self, environment: str, verb: str, job: dict[str, Any], request: Path) -> Any:
        name = Path(job["artifact"]).name
        self.open.add(name)
        self.started.append(name)
        self.most = max(self.most, len(self.open))

        def close() -> int:
            self.open.remove(name)
            return self._takes_bytes

        told: dict[str, Any] = {"settings": {}, "versions": {}}
        return SimpleNamespace(
            ask=lambda: {"load_s": 1.0},
            finish=lambda: told,
            close=close,
            peak_bytes=self._takes_bytes,
        )


def pool(
    engines: Engines, free_bytes: int, monkeypatch: pytest.MonkeyPatch, root: Path
) -> benchmark_pool.Pool:
    manifest = SimpleNamespace(size_bytes=GIB)
    monkeypatch.setattr(benchmark_pool.keeping, "verified", lambda place: (place.model, manifest))
    monkeypatch.setattr(benchmark_pool, "Session", engines.session)
    monkeypatch.setattr(
        benchmark_pool.machine, "memory", lambda: Memory(4 * free_bytes, free_bytes)
    )
    loaded = recipe.load("tiny")
    return benchmark_pool.Pool(loaded, root, {turn: Measured() for turn in TURNS})


def needed(kv_cache_gib: int = 1) -> float:
    return benchmark_pool.MEMORY_PER_SIZE * GIB + kv_cache_gib * GIB + benchmark_pool.ENGINE_BYTES


@pytest.mark.parametrize("room", [1, 2, 3, 6])
def test_no_more_stay_open_than_there_is_room_for(
    room: int, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    engines = Engines(takes_bytes=int(needed()))
    opened = pool(engines, int(needed() * (room + 0.5) / ROOM_SHARE), monkeypatch, root)
    for repeat in range(3):
        for turn in TURNS if repeat % 2 == 0 else reversed(TURNS):
            opened.open(turn)
    assert engines.most == room
    opened.close()
    assert not engines.open


def test_what_is_open_counts_with_what_it_took(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """An eighth of what was expected: none is ever closed, and none is started twice."""
    engines = Engines(takes_bytes=int(needed() / 8))
    opened = pool(engines, int(needed() * 2.5 / ROOM_SHARE), monkeypatch, root)
    for _ in range(3):
        for turn in TURNS:
            opened.open(turn)
    assert engines.open == set(NAMES) and engines.started == list(NAMES)


def test_what_took_more_than_expected_leaves_room_for_fewer(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    engines = Engines(takes_bytes=int(needed() * 1.5))
    opened = pool(engines, int(needed() * 3.2 / ROOM_SHARE), monkeypatch, root)
    for turn in [*TURNS, *TURNS]:
        opened.open(turn)
    assert engines.most == 2


def test_one_that_is_too_large_runs_alone(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Whether it may start at all was asked before."""
    engines = Engines(takes_bytes=int(needed()))
    opened = pool(engines, GIB, monkeypatch, root)
    for turn in TURNS:
        opened.open(turn)
    assert engines.most == 1
