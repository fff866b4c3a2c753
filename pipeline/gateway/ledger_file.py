"""The SQLite file of what was used: a row for each day (UTC), key, feature, model and tier. Several
gateways on one machine may add to it, and anybody may read it meanwhile (WAL)."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import SetupError

BUSY_S = 5.0  # for another gateway's writing
APPLICATION = 0x7167_6C31  # says that an SQLite file is a ledger of this form
SCHEMA = """
CREATE TABLE uses (
    day TEXT NOT NULL, key TEXT NOT NULL, feature TEXT NOT NULL, model TEXT NOT NULL,
    tier TEXT NOT NULL, requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, device_s REAL NOT NULL, cost REAL NOT NULL,
    PRIMARY KEY (day, key, feature, model, tier)
) WITHOUT ROWID"""
ADD = """
INSERT INTO uses VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    device_s = device_s + excluded.device_s, cost = cost + excluded.cost"""
USES = """
SELECT key, feature, model, tier, sum(requests), sum(prompt_tokens), sum(completion_tokens),
    sum(device_s), sum(cost)
FROM uses WHERE day >= ? GROUP BY key, feature, model, tier"""
COSTS = "SELECT day, key, sum(cost) FROM uses WHERE day >= ? GROUP BY day, key"
Costs = dict[str, dict[str, float]]  # by day and key


def opened(path: Path) -> tuple[sqlite3.Connection, Costs]:
    """To write, made where there is none; and what all that it holds did cost. Raises SetupError
    for a file that is something else, or cannot be used."""
    with _explained(path), contextlib.ExitStack() as until_known:
        file = until_known.enter_context(contextlib.closing(_connected(path, "rwc")))
        _prepare(file)
        _require_ledger(file, path)
        _let_others_read(file)
        file.execute("PRAGMA synchronous = NORMAL")  # with WAL only a power cut loses the last
        costs = _costs(file, "")
        until_known.pop_all()
    return file, costs


def read(path: Path, first: str) -> list[tuple[Any, ...]]:
    """As `uses`, without writing. Raises SetupError."""
    if not path.is_file():
        raise SetupError(f"{path}: no such file: the gateway makes it when it starts.")
    # Beside a file that nobody has open SQLite would write two others, which not everybody may.
    in_use = path.resolve().with_name(f"{path.resolve().name}-wal").exists()
    mode = "ro" if in_use else "ro&immutable=1"
    with _explained(path), contextlib.closing(_connected(path, mode)) as file:
        _require_ledger(file, path)
        return uses(file, first)


def uses(file: sqlite3.Connection, first: str) -> list[tuple[Any, ...]]:
    """Key, feature, model, tier and the amounts of all days from `first` on."""
    return file.execute(USES, (first,)).fetchall()


def add(file: sqlite3.Connection, rows: Sequence[tuple[Any, ...]], first: str) -> Costs:
    """Rows as in the table; gives the costs of all days from `first` on, with them."""
    if not rows:
        return _costs(file, first)
    file.execute("BEGIN IMMEDIATE")
    try:
        file.executemany(ADD, rows)
        found = _costs(file, first)
        file.execute("COMMIT")
    except BaseException:
        if file.in_transaction:
            file.execute("ROLLBACK")
        raise
    return found


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise SetupError(
            f"{path}: cannot be used as the file of what was used: {error}. Expected a file that"
            " the gateway made, or none in a folder that can be written."
        ) from error


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}",
        timeout=BUSY_S,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
    )


def _prepare(file: sqlite3.Connection) -> None:
    file.execute("BEGIN IMMEDIATE")
    if not file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        file.execute(SCHEMA)
        file.execute(f"PRAGMA application_id = {APPLICATION}")
    file.execute("COMMIT")


def _let_others_read(file: sqlite3.Connection) -> None:
    """While this one writes. SQLite does not wait by itself where others do the same at once."""
    end = time.monotonic() + BUSY_S
    while True:
        try:
            file.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


def _require_ledger(file: sqlite3.Connection, path: Path) -> None:
    if file.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
        raise SetupError(
            f"{path}: a database of something else. Give the gateway a file of its own: usage, in"
            " deploy.yaml."
        )


def _costs(file: sqlite3.Connection, first: str) -> Costs:
    costs: Costs = {}
    for day, key, cost in file.execute(COSTS, (first,)):
        costs.setdefault(day, {})[key] = cost
    return costs
