"""How the jobs of `quantgate spread` stand: a table on a terminal, elsewhere a line for each
change, or JSON."""

from __future__ import annotations

import json
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.planning.plan import duration

WAITS, RUNS, DONE, FAILED = "waits", "runs", "done", "failed"
STYLES = {WAITS: "dim", RUNS: "cyan", DONE: "green", FAILED: "red"}


class Shown(Protocol):
    def started(self, dashboard: str, nodes: int) -> None:
        """The cluster is there."""

    def set(self, stage: str, state: str, node: str = "", note: str = "") -> None:
        """A stage came into a state."""

    def left(self, seconds: float) -> None:
        """About what is left in all."""


def shown(stages: list[str], as_json: bool) -> tuple[Shown, AbstractContextManager[object]]:
    """What shows them, and what it stands in while it does."""
    if as_json or not sys.stdout.isatty():
        return Lines(as_json), nullcontext()
    table = OnTerminal(stages)
    return table, table.live


class Lines:
    """One for each change."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._known: dict[str, tuple[str, str]] = {}

    def started(self, dashboard: str, nodes: int) -> None:
        if self._as_json:
            self._print({"nodes": nodes, "dashboard": dashboard})
        else:
            print(f"{nodes} nodes; Ray's dashboard: {dashboard or 'none'}", flush=True)

    def set(self, stage: str, state: str, node: str = "", note: str = "") -> None:
        if self._known.get(stage) == (state, node):
            return
        self._known[stage] = state, node
        if self._as_json:
            self._print({"stage": stage, "state": state, "node": node, "note": note})
        else:
            at, more = f" on {node}" if node else "", f": {note}" if note else ""
            print(f"{stage} {state}{at}{more}", flush=True)

    def left(self, seconds: float) -> None:
        """Nothing: there is no line to write over."""

    def _print(self, value: dict[str, object]) -> None:
        print(json.dumps(value), flush=True)


class OnTerminal:
    """A table that is written over."""

    def __init__(self, stages: list[str]) -> None:
        self._rows = dict.fromkeys(stages, (WAITS, "", "", 0.0))
        self._title = "starting the cluster"
        self._left = ""
        self.live = Live(get_renderable=self.drawn, console=Console(), refresh_per_second=2)

    def started(self, dashboard: str, nodes: int) -> None:
        self._title = f"{nodes} nodes; Ray's dashboard: {dashboard or 'none'}"

    def set(self, stage: str, state: str, node: str = "", note: str = "") -> None:
        before = self._rows[stage]
        since = before[3] if before[:2] == (state, node) else time.monotonic()
        self._rows[stage] = (state, node, note, since)

    def left(self, seconds: float) -> None:
        self._left = f"about {duration(seconds)} left" if seconds else ""

    def drawn(self) -> Group:
        table = Table()
        for heading in ("stage", "state", "node", ""):
            table.add_column(heading)
        for stage, (state, node, note, since) in self._rows.items():
            running = f"{time.monotonic() - since:.0f} s" if state == RUNS else note
            table.add_row(stage, Text(state, STYLES[state]), Text(node), Text(running))
        return Group(Text(self._title), table, Text(self._left))
