"""What was used: summed, kept over a restart, shared by gateways, and shown."""

from __future__ import annotations

import itertools
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RecipeError, SetupError
from pipeline.gateway import ledger_file, usage
from pipeline.gateway.ledger import Ledger, Use, read
from pipeline.report.formatting import TIMES
from tests.serving import until

NOON = 1_767_268_800.0  # 2026-01-01 12:00 UTC
DAY_S = 86_400.0
KILLED = """
import sys, time
from pathlib import Path
from pipeline.gateway.ledger import Ledger, Use
ledger = Ledger(Path(sys.argv[1]))
ledger.add(Use("ada", "search", "m", "edge", cost=1.5))
print("added", flush=True)
time.sleep(60)
"""


class Clock:
    """In place of time.time: stands still."""

    now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.sqlite"


@contextmanager
def opened(path: Path) -> Iterator[Ledger]:
    with closing(Ledger(path)) as ledger:
        yield ledger


def use(key: str = "ada", feature: str = "search", cost: float = 1.0, **more: float) -> Use:
    return Use(key, feature, "m", "edge", cost=cost, **more)  # type: ignore[arg-type]


def test_what_is_added_counts_at_once_and_after_a_restart(path: Path) -> None:
    with opened(path) as ledger:
        ledger.add(use(cost=1.5, prompt_tokens=7, completion_tokens=5, device_s=0.25))
        ledger.add(use(cost=2.0, prompt_tokens=3, completion_tokens=1, device_s=0.5))
        ledger.add(use("bob", cost=8.0))
        summed = Use("ada", "search", "m", "edge", 2, 10, 6, 0.75, 3.5)
        assert (ledger.spent("ada", 1), ledger.spent("bob", 1), ledger.spent("eve", 1)) == (
            3.5,
            8.0,
            0.0,
        )
        assert ledger.usage(1) == [summed, use("bob", cost=8.0)]
    with opened(path) as ledger:
        assert (ledger.spent("ada", 1), ledger.spent("bob", 1)) == (3.5, 8.0)
        assert ledger.usage(1) == read(path, 1) == [summed, use("bob", cost=8.0)]
        ledger.add(use(cost=0.5))
        assert ledger.spent("ada", 1) == 4.0
    assert [one.cost for one in read(path, 1)] == [4.0, 8.0]


def test_use_is_summed_by_feature_model_tier_and_key(path: Path) -> None:
    places = [
        Use(key, feature, model, tier)
        for feature in "ab"
        for model in "cd"
        for tier in "ef"
        for key in "gh"
    ]
    with opened(path) as ledger:
        for place in reversed(places):
            ledger.add(place)
        assert ledger.usage(1) == places
    assert read(path, 1) == places


def test_days_are_those_of_utc_and_today_is_one_of_them(path: Path, clock: Clock) -> None:
    with opened(path) as ledger:
        for day, cost in enumerate((1.0, 2.0, 4.0)):
            clock.now = NOON + day * DAY_S
            ledger.add(use(cost=cost))
        assert [ledger.spent("ada", days) for days in (1, 2, 3, 4)] == [4.0, 6.0, 7.0, 7.0]
        assert [ledger.usage(days)[0].cost for days in (1, 2, 3)] == [4.0, 6.0, 7.0]
        clock.now += DAY_S / 2 - 1
        assert ledger.spent("ada", 1) == 4.0
        clock.now += 1  # midnight
        assert [ledger.spent("ada", days) for days in (1, 2, 3)] == [0.0, 4.0, 6.0]
    with opened(path) as ledger:
        assert [ledger.spent("ada", days) for days in (1, 2, 3)] == [0.0, 4.0, 6.0]
    assert [one.cost for one in read(path, 3)] == [6.0]


def test_when_there_is_room_again(path: Path, clock: Clock) -> None:
    with opened(path) as ledger:
        for day, cost in enumerate((1.0, 2.0, 4.0)):
            clock.now = NOON + day * DAY_S  # 1, 2 and 3 January
            ledger.add(use(cost=cost))
        room = {bound: ledger.below("ada", 30, bound) for bound in (8.0, 7.0, 6.0, 4.0, 0.0)}
    shown = {bound: day and day.isoformat() for bound, day in room.items()}
    assert shown == {
        8.0: "2026-01-03",
        7.0: "2026-01-31",
        6.0: "2026-02-01",
        4.0: "2026-02-02",
        0.0: None,
    }


def test_the_first_day_with_room_is_the_first(path: Path, clock: Clock) -> None:
    names = (f"key{number}" for number in itertools.count())
    with opened(path) as ledger:

        @given(
            costs=st.lists(st.integers(0, 9), min_size=1, max_size=6),
            days=st.integers(1, 8),
            bound=st.integers(1, 20),
        )
        def first(costs: list[int], days: int, bound: int) -> None:
            key, clock.now = next(names), NOON
            for cost in costs:
                clock.now += DAY_S
                ledger.add(use(key, cost=cost))
            day = ledger.below(key, days, bound)
            while ledger.spent(key, days) >= bound:
                clock.now += DAY_S
            assert str(day) == time.strftime("%Y-%m-%d", time.gmtime(clock.now))

        first()


def test_two_gateways_count_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.gateway.ledger.WRITE_EACH_S", 0.05)
    amounts = {"prompt_tokens": 3, "completion_tokens": 5, "device_s": 0.5}
    with opened(path) as one, opened(path) as other:
        one.add(use(cost=1.0, **amounts))
        other.add(use(cost=2.0, **amounts))
        until(lambda: one.spent("ada", 1) == other.spent("ada", 1) == 3.0)
        one.add(use(cost=4.0, **amounts))
        until(lambda: other.spent("ada", 1) == 7.0)
        assert [found.requests for found in other.usage(1)] == [3]
    assert read(path, 1) == [Use("ada", "search", "m", "edge", 3, 9, 15, 1.5, 7.0)]


def test_what_another_gateway_writes_after_midnight_counts_as_yesterdays(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.gateway.ledger.WRITE_EACH_S", 0.3)
    with opened(path) as one, opened(path) as other:
        other.add(use(cost=2.0))
        clock.now += DAY_S
        until(lambda: one.spent("ada", 2) == 2.0)
        assert one.spent("ada", 1) == 0.0


def test_whoever_reads_holds_no_writer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "BUSY_S", 0.05)
    ledger = Ledger(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM uses").fetchone() == (0,)
        ledger.add(use())
        ledger.close()
        assert read(path, 1) == [use()]


def test_gateways_may_start_at_once(path: Path) -> None:
    ledgers: list[Ledger] = []
    threads = [threading.Thread(target=lambda: ledgers.append(Ledger(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ledger in ledgers:
        ledger.add(use())
    for ledger in ledgers:
        ledger.close()
    assert read(path, 1) == [use(cost=8.0, requests=8)]


def test_nothing_is_lost_or_counted_twice_while_it_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many threads add while the file is written all the time; the sum never falls."""
    monkeypatch.setattr("pipeline.gateway.ledger.WRITE_EACH_S", 0.001)
    ledger = Ledger(path)
    seen = [0.0]

    def add() -> None:
        for _ in range(200):
            ledger.add(use(cost=1.0))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.append(ledger.spent("ada", 1))
        assert sum(one.cost for one in ledger.usage(1)) >= seen[-1]
    assert seen == sorted(seen)
    assert ledger.spent("ada", 1) == 800.0
    ledger.close()
    assert read(path, 1) == [use(cost=800.0, requests=800)]


def test_a_killed_gateway_loses_no_more_than_its_last_seconds(path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None and gateway.stdout.readline() == "added\n"
        until(lambda: bool(read(path, 1)))  # by another process, while it runs
        gateway.send_signal(signal.SIGKILL)
    assert [one.cost for one in read(path, 1)] == [1.5]
    with opened(path) as ledger:
        assert ledger.spent("ada", 1) == 1.5


def test_a_file_that_cannot_be_written_holds_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Another process holds the file for longer than the ledger waits for it."""
    monkeypatch.setattr(ledger_file, "BUSY_S", 0.3)
    monkeypatch.setattr("pipeline.gateway.ledger.WRITE_EACH_S", 0.02)
    with opened(path) as ledger:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            ledger.add(use(cost=1.0))
            end = time.monotonic() + 0.8  # several tries
            while time.monotonic() < end:
                assert ledger.spent("ada", 1) == 1.0
            start = time.monotonic()
            ledger.add(use(cost=2.0))
            assert ledger.spent("ada", 1) == 3.0
            assert time.monotonic() - start < 0.2
        until(lambda: bool(read(path, 1)))
    assert read(path, 1) == [use(cost=3.0, requests=2)]
    said = capfd.readouterr().err
    assert said.count("cannot be written") == 1 and str(path) in said


def test_what_is_lost_at_the_end_is_said(
    path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ledger_file, "BUSY_S", 0.05)
    ledger = Ledger(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        ledger.add(use(cost=2.5))
        ledger.close()
    assert "lost, as it cannot be written: ada: 1 requests, 2.5" in capfd.readouterr().err


@pytest.mark.parametrize("amount", [-1, float("nan"), float("inf"), 2**53])
@pytest.mark.parametrize("of", ["requests", "prompt_tokens", "device_s", "cost"])
def test_an_amount_that_is_none_is_refused_and_spoils_nothing(
    path: Path, of: str, amount: float
) -> None:
    with opened(path) as ledger:
        ledger.add(use())
        with pytest.raises(ValueError, match="amount"):
            ledger.add(Use("ada", "search", "m", "edge", **{of: amount}))  # type: ignore[arg-type]
    assert read(path, 1) == [use()]


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE uses (day TEXT)")
        other.commit()


WRONG = {
    "text": lambda path: path.write_text("no database, but long enough for its header" * 9),
    "another database": foreign,
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(path: Path, kind: str) -> None:
    WRONG[kind](path)
    before = path.read_bytes() if path.is_file() else None
    for refuse in (Ledger, lambda path: read(path, 1)):
        with pytest.raises(SetupError) as refused:
            refuse(path)
        assert str(refused.value).startswith(f"{path}: ")
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_missing_folder_or_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="unable to open"):
        Ledger(tmp_path / "no" / "usage.sqlite")
    with pytest.raises(SetupError, match="no such file"):
        read(tmp_path / "usage.sqlite", 1)
    assert not list(tmp_path.iterdir())


def test_reading_leaves_nothing_beside_the_file(path: Path) -> None:
    """Whoever may only read the folder could not read the file otherwise."""
    Ledger(path).close()
    assert read(path, 1) == []
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.fixture
def deployed(tmp_path: Path, path: Path) -> Path:
    deploy = tmp_path / "deploy.yaml"
    deploy.write_text("models: {m: {tiers: {edge: {bundle: b}}}}\ncurrency: EUR\n")
    with opened(path) as ledger:
        ledger.add(use("ada", cost=0.001, prompt_tokens=1200, completion_tokens=34, device_s=1.25))
        ledger.add(use("bob", cost=0.002, prompt_tokens=300, completion_tokens=6, device_s=0.75))
        ledger.add(Use("ada", "chat", "m", "cloud", cost=3.0))
    return deploy


def test_a_small_amount_is_no_zero() -> None:
    shown = [usage._amount(value, 4) for value in (0, 1.9e-7, 0.00012, 0.003, 1234567.0)]
    assert shown == ["0.0000", f"1.9{TIMES}10⁻⁷", "0.00012", "0.0030", "1,234,567.0000"]


def test_usage_is_a_table_by_feature_with_a_sum(
    deployed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    usage.show(deployed, 30, as_json=False)
    said = capsys.readouterr().out
    rows = [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]
        for line in said.splitlines()
        if line.startswith(("│", "┃"))
    ]
    assert rows == [
        [
            "feature",
            "model",
            "tier",
            "requests",
            "prompt tokens",
            "completion tokens",
            "device s",
            "cost in EUR",
        ],
        ["chat", "m", "cloud", "1", "0", "0", "0.0", "3.0000"],
        ["search", "m", "edge", "2", "1,500", "40", "2.0", "0.0030"],
        ["sum", "", "", "3", "1,500", "40", "2.0", "3.0030"],
    ]
    assert "last 30 days" in said
    monkeypatch.setenv("COLUMNS", "20")
    usage.show(deployed, 30, as_json=False)
    narrow = capsys.readouterr().out
    assert all(number in narrow for row in rows[1:] for number in row[3:])  # none is broken


def test_usage_as_json_has_each_key(deployed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usage.show(deployed, 7, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["days"], found["currency"]) == (7, "EUR")
    assert [(row["feature"], row["key"], row["cost"]) for row in found["uses"]] == [
        ("chat", "ada", 3.0),
        ("search", "ada", 0.001),
        ("search", "bob", 0.002),
    ]
    assert found["uses"][1] == {
        "key": "ada",
        "feature": "search",
        "model": "m",
        "tier": "edge",
        "requests": 1,
        "prompt_tokens": 1200,
        "completion_tokens": 34,
        "device_s": 1.25,
        "cost": 0.001,
    }


def test_usage_of_nothing_is_a_sum_of_nothing(
    tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy = tmp_path / "deploy.yaml"
    deploy.write_text("models: {m: {tiers: {edge: {bundle: b}}}}\n")
    with pytest.raises(SetupError, match="no such file"):
        usage.show(deploy, 30, as_json=False)
    Ledger(path).close()
    usage.show(deploy, 30, as_json=False)
    assert "sum" in capsys.readouterr().out
    with pytest.raises(RecipeError):
        usage.show(tmp_path / "no.yaml", 30, as_json=False)
