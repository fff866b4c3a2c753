"""What was used, by day, key, feature, model and tier: in memory for those who ask at each request,
and in an SQLite file, so that budgets survive a restart and gateways on one machine share them."""

from __future__ import annotations

import bisect
import dataclasses
import datetime
import math
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.gateway import ledger_file

WRITE_EACH_S = 1.0  # what is lost at most when the process is killed
MOST = 2**53  # of an amount: exact as a float, and far from SQLite's own limit


@dataclass(frozen=True)
class Use:
    """Of one request, or of several together. `cost` in the deployment's currency."""

    key: str
    feature: str
    model: str
    tier: str
    requests: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    device_s: float = 0.0
    cost: float = 0.0

    @property
    def place(self) -> tuple[str, str, str, str]:
        return self.key, self.feature, self.model, self.tier

    @property
    def amounts(self) -> tuple[int, int, int, float, float]:
        return (
            self.requests,
            self.prompt_tokens,
            self.completion_tokens,
            self.device_s,
            self.cost,
        )

    def __add__(self, other: Use) -> Use:
        """Both at the place of the first."""
        return dataclasses.replace(
            self,
            requests=self.requests + other.requests,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            device_s=self.device_s + other.device_s,
            cost=self.cost + other.cost,
        )


Rows = dict[tuple[str, tuple[str, str, str, str]], Use]  # by day (ISO, UTC) and place


class Ledger:
    """All of it may be called from any thread, and only `usage` and `close` wait for the file."""

    def __init__(self, path: Path) -> None:
        """Raises SetupError for a file that is no ledger, or cannot be one."""
        self._path = path
        self._lock = threading.Lock()  # of what is in memory
        self._file_lock = threading.Lock()  # never taken with the other held
        self._waiting: Rows = {}
        self._leaving: Rows = {}  # on their way into the file
        self._failing = False
        self._file, self._stored = ledger_file.opened(path)
        self._ended = threading.Event()
        self._writer = threading.Thread(target=self._write_each, name="ledger", daemon=True)
        self._writer.start()

    def add(self, use: Use) -> None:
        """Counts it at once; it is in the file about WRITE_EACH_S later. Raises ValueError for
        amounts that nothing could add up."""
        for amount in use.amounts:
            if not (math.isfinite(amount) and 0 <= amount < MOST):
                raise ValueError(f"found the amount {amount!r}, expected one from 0 to {MOST}")
        with self._lock:
            _add(self._waiting, {(_today().isoformat(), use.place): use})

    def spent(self, key: str, days: int) -> float:
        """The cost of the last `days` days (UTC), today among them; of other gateways as of about
        WRITE_EACH_S ago."""
        return self._cost_from(key, _first(days))

    def below(self, key: str, days: int, bound: float) -> datetime.date | None:
        """The first day on which `spent` will be below it if nothing more is used."""
        if bound <= 0:
            return None
        first = _first(days)
        ahead = bisect.bisect_left(
            range(days),
            True,
            key=lambda n: self._cost_from(key, first + datetime.timedelta(n)) < bound,
        )
        return _today() + datetime.timedelta(ahead)

    def usage(self, days: int) -> list[Use]:
        """Summed over the days. Raises sqlite3.Error if the file cannot be read."""
        first = _first(days).isoformat()
        with self._file_lock:  # nothing leaves meanwhile
            uses = [Use(*row) for row in ledger_file.uses(self._file, first)]
            with self._lock:
                uses += [use for (day, _), use in self._waiting.items() if day >= first]
        return _summed(uses)

    def close(self) -> None:
        """Writes what is left; what cannot be written even now is lost, and said."""
        self._ended.set()
        self._writer.join()
        self._write()
        self._file.close()
        if lost := _summed(self._waiting.values()):
            said = "; ".join(f"{use.key}: {use.requests} requests, {use.cost:g}" for use in lost)
            print(
                f"quantgate: {self._path}: lost, as it cannot be written: {said}", file=sys.stderr
            )

    def _cost_from(self, key: str, first: datetime.date) -> float:
        since = first.isoformat()
        with self._lock:
            stored = sum(of.get(key, 0.0) for day, of in self._stored.items() if day >= since)
            fresh = sum(
                use.cost
                for rows in (self._waiting, self._leaving)
                for (day, _), use in rows.items()
                if day >= since and use.key == key
            )
        return stored + fresh

    def _write_each(self) -> None:
        while not self._ended.wait(WRITE_EACH_S):
            self._write()

    def _write(self) -> None:
        """Also reads what other gateways added. What cannot be written waits for the next time."""
        with self._file_lock:
            with self._lock:
                self._leaving, self._waiting = self._waiting, {}
            try:
                rows = [(day, *use.place, *use.amounts) for (day, _), use in self._leaving.items()]
                # Of earlier days nothing is added any more, but in the seconds after midnight.
                stored = ledger_file.add(self._file, rows, _first(2).isoformat())
            except sqlite3.Error as error:
                self._failed(error)
                stored = {}
            else:
                self._failing = False
            with self._lock:
                if self._failing:
                    _add(self._waiting, self._leaving)
                self._leaving = {}
                self._stored |= stored

    def _failed(self, error: sqlite3.Error) -> None:
        if not self._failing:
            print(
                f"quantgate: {self._path}: what was used cannot be written, and is kept in memory:"
                f" {error}",
                file=sys.stderr,
                flush=True,
            )
        self._failing = True


def read(path: Path, days: int) -> list[Use]:
    """As `Ledger.usage`, of a file that a gateway may be writing. Raises SetupError."""
    return _summed(Use(*row) for row in ledger_file.read(path, _first(days).isoformat()))


def _add(rows: Rows, more: Rows) -> None:
    for row, use in more.items():
        rows[row] = rows[row] + use if row in rows else use


def _summed(uses: Iterable[Use]) -> list[Use]:
    rows: Rows = {}
    for use in uses:
        _add(rows, {("", use.place): use})
    return sorted(rows.values(), key=lambda use: (use.feature, use.model, use.tier, use.key))


def _today() -> datetime.date:
    return datetime.datetime.fromtimestamp(time.time(), datetime.UTC).date()


def _first(days: int) -> datetime.date:
    return _today() - datetime.timedelta(days - 1)
