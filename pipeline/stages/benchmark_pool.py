"""The engines of a benchmark between their turns: which stay open, by the memory that there is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import engines, paths
from pipeline.evidence import keeping
from pipeline.recipe import Recipe, Serve
from pipeline.records import Replay
from pipeline.runtime import machine
from pipeline.runtime.process import Session

ENGINE_BYTES = 2e9  # an engine besides its weights and KV cache, generously
MEMORY_PER_SIZE = 1.5  # resident bytes of a loaded artifact over its size on disk
ROOM_SHARE = 0.9  # of what is free before the first session; the rest caches mapped files


class Turn(NamedTuple):
    """A variant in one of its profiles."""

    variant: str
    profile: str


@dataclass
class Measured:
    """What was measured of one turn so far."""

    load_s: list[float] = field(default_factory=list)
    peaks_bytes: list[int] = field(default_factory=list)
    replays: list[Replay] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def matched(serve: Serve) -> Serve:
    """At the precision that vLLM computes in."""
    return serve.model_copy(update={"precision": "bf16", "kv_cache": None})


class Pool:
    """Sessions that stay open while memory has room; the one that waited longest is closed first.

    What is open has had a turn, its KV cache filled, and counts with what it took in it; what is to
    be opened with what it took before, or what it may come to take."""

    def __init__(self, recipe: Recipe, folder: Path, measured: dict[Turn, Measured]) -> None:
        self._recipe, self._folder, self._measured = recipe, folder, measured
        self._open: dict[Turn, Session] = {}
        self._room = ROOM_SHARE * machine.memory().available

    def open(self, turn: Turn) -> Session:
        session = self._open.pop(turn, None) or self._start(turn)
        self._open[turn] = session  # last of the dictionary: used last
        return session

    def _start(self, turn: Turn) -> Session:
        model, manifest = keeping.verified(paths.place(self._recipe.name, turn.variant))
        unknown = (
            MEMORY_PER_SIZE * manifest.size_bytes
            + self._recipe.serve.kv_cache_gib * (1 << 30)
            + ENGINE_BYTES
        )
        needed = max(self._measured[turn].peaks_bytes, default=unknown)
        while self._open and self._taken() + needed > self._room:
            self._finish(next(iter(self._open)))
        engine = self._recipe.variants[turn.variant].engine
        serve = self._recipe.serve_for(turn.variant)
        if turn.profile == "matched":
            serve = matched(serve)
        job = {
            "engine": engine,
            "artifact": str(model),
            "serve": serve.model_dump(),
            "trace": str(paths.trace(self._recipe.name)),
        }
        request = self._folder / f"{turn.variant}.{turn.profile}.json"
        session = Session(engines.ENGINES[engine].environment, "session", job, request)
        self._open[turn] = session
        self._measured[turn].load_s.append(session.ask()["load_s"])
        return session

    def _taken(self) -> int:
        """Bytes of those that are open."""
        return sum(session.peak_bytes for session in self._open.values())

    def _finish(self, turn: Turn) -> None:
        session, measured = self._open[turn], self._measured[turn]
        last = session.finish()
        measured.settings, measured.versions = last["settings"], last["versions"]
        del self._open[turn]
        measured.peaks_bytes.append(session.close())

    def close(self) -> None:
        for turn in list(self._open):
            self._finish(turn)

    def kill(self) -> None:
        for session in self._open.values():
            session.close()
