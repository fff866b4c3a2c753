"""Who may ask the gateway, how often, for how much, and what is said to those who may not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SetupError
from pipeline.gateway.clients import Beyond, Client, Clients, capped
from pipeline.gateway.deploy_file import Budget, Key
from pipeline.gateway.ledger import Ledger, Use
from pipeline.serving.problems import Problem

NOON = 1_767_268_800.0  # 2026-01-01 12:00 UTC; also the start of a minute
DAY_S = 86_400.0
SECRETS = {"ada": "sk-ada", "bob": "sk-bob", "shared": "sk-third"}


class Clock:
    """Of the wall and of the process: both stand still."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    monkeypatch.setattr("pipeline.gateway.clients.time.monotonic", clock)
    return clock


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "usage.sqlite")
    yield ledger
    ledger.close()


def keys(folder: Path, **more: Any) -> dict[str, Key]:
    """`more`: of ada's."""
    made = {}
    for name, secret in SECRETS.items():
        file = folder / f"{name}.key"
        file.write_text(f"{secret}\n")
        made[name] = Key(file=str(file), **(more if name == "ada" else {}))
    return made


def only(ada: Clients) -> Client:
    return ada.who("Bearer sk-ada")


def asked(clients: Clients, times: int = 1) -> list[Beyond | None]:
    """What is said to ada each time."""

    async def ask() -> list[Beyond | None]:
        said: list[Beyond | None] = []
        for _ in range(times):
            try:
                await clients.admit(only(clients))
                said.append(None)
            except Beyond as beyond:
                said.append(beyond)
        return said

    return asyncio.run(ask())


def headers(problem: Problem) -> dict[str, str]:
    return dict(problem.response().headers)


def test_each_key_is_its_client(tmp_path: Path, ledger: Ledger) -> None:
    made = keys(tmp_path)
    clients = Clients(made, ledger)
    for name, secret in SECRETS.items():
        for shown in (f"Bearer {secret}", f"bearer   {secret} "):
            found = clients.who(shown)
            assert (found.name, found.key) == (name, made[name])
            assert secret not in repr(found)


@pytest.mark.parametrize(
    "shown",
    [
        "",
        "Bearer",
        "Bearer ",
        "sk-ada",
        "Basic sk-ada",
        "Bearer sk-ad",
        "Bearer sk-adaa",
        "Bearer SK-ADA",
        "Bearer ada",
        "Bearer sk-ada sk-bob",
        "Bearer sk-ad\xe1",
        "Bearer \ud800",
        "Bearer " + "a" * 100_000,
    ],
)
def test_anything_else_is_refused_as_openai_does(
    tmp_path: Path, ledger: Ledger, shown: str
) -> None:
    with pytest.raises(Problem) as refused:
        Clients(keys(tmp_path), ledger).who(shown)
    assert (refused.value.status, refused.value.body["error"]["code"]) == (401, "invalid_api_key")
    assert headers(refused.value)["www-authenticate"] == "Bearer"
    assert not any(secret in str(refused.value.body) for secret in SECRETS.values())


def test_every_key_is_compared_each_time(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the time would say which key, or how much of it, is right."""
    clients, lengths = Clients(keys(tmp_path), ledger), []

    def counted(one: bytes, other: bytes) -> bool:
        lengths.append({len(one), len(other)})
        return one == other

    monkeypatch.setattr("pipeline.gateway.clients.compare_digest", counted)
    clients.who("Bearer sk-ada")
    assert len(lengths) == 3 and all(len(both) == 1 for both in lengths)


def test_without_keys_everybody_is_anonymous_and_unbounded(tmp_path: Path, ledger: Ledger) -> None:
    clients = Clients({}, ledger)
    client = clients.who("")
    assert client == clients.who("Bearer sk-ada") == Client("anonymous", None)

    async def ask() -> None:
        for _ in range(100):
            await clients.admit(client)
            clients.used(client, 10**9)

    asyncio.run(ask())
    assert list(clients.budgets()) == []
    assert capped(client, {"max_tokens": 10**9}) == {"max_tokens": 10**9}


def test_two_names_with_one_secret_are_refused(tmp_path: Path, ledger: Ledger) -> None:
    made = keys(tmp_path)
    Path(made["bob"].file).write_text("  sk-ada\n")
    with pytest.raises(SetupError) as refused:
        Clients(made, ledger)
    assert made["ada"].file in str(refused.value) and made["bob"].file in str(refused.value)
    assert "sk-ada" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "two words", "ümlaut", "a\nb", "\x01"])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, ledger: Ledger, content: str) -> None:
    made = keys(tmp_path)
    Path(made["bob"].file).write_text(content)
    with pytest.raises(SetupError, match="not a key") as refused:
        Clients(made, ledger)
    assert made["bob"].file in str(refused.value)
    Path(made["bob"].file).unlink()
    with pytest.raises(SetupError, match="no such file"):
        Clients(made, ledger)


def test_whose_answers_a_client_may_get_is_never_in_doubt(tmp_path: Path) -> None:
    """Also where a key is named as the scope of all is."""
    file = str(tmp_path)
    own = [Client(name, Key(file=file)).scope for name in ("ada", "bob", "shared", "anonymous")]
    shared = [Client(name, Key(file=file, cache="shared")).scope for name in ("ada", "bob")]
    assert len({*own, *shared}) == 5 and shared[0] == shared[1]
    assert Client("ada", Key(file=file, cache="off")).scope is None
    elsewhere = Client("ada", Key(file=file), secret=b"of another gateway")
    assert elsewhere.scope != Client("ada", Key(file=file), secret=b"of this one").scope
    assert Client("anonymous", None).scope == own[-1]


def test_requests_beyond_the_minutes_are_refused_until_what_is_said(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    clients = Clients(keys(tmp_path, requests_per_minute=3), ledger)
    clock.now += 20
    *first, beyond = asked(clients, 4)
    assert first == [None] * 3
    assert beyond is not None and (beyond.status, beyond.reason) == (429, "requests")
    error = beyond.body["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    wait_s = int(headers(beyond)["retry-after"])
    assert f"3 requests a minute. Try again in {wait_s} s." in error["message"]
    clock.now += wait_s - 1
    assert asked(clients)[0] is not None
    clock.now += 1
    said = asked(clients, 2)  # what was refused did not count
    assert said[0] is None and said[1] is not None


def test_requests_in_any_minute_stay_near_the_bound(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    """A client that asks each second for ten minutes."""
    clients = Clients(keys(tmp_path, requests_per_minute=12), ledger)
    admitted = []
    for second in range(600):
        clock.now = NOON + second
        if asked(clients) == [None]:
            admitted.append(second)
    assert 110 <= len(admitted) <= 12 * 11
    assert max(sum(start <= one < start + 60 for one in admitted) for start in admitted) <= 18


def test_requests_at_once_are_counted_each(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    clients = Clients(keys(tmp_path, requests_per_minute=10), ledger)

    async def ask() -> list[BaseException | None]:
        many = (clients.admit(only(clients)) for _ in range(50))
        return await asyncio.gather(*many, return_exceptions=True)

    said = asyncio.run(ask())
    assert said.count(None) == 10
    assert all(isinstance(one, Beyond) for one in said if one is not None)


def test_one_clients_bound_is_no_others(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    made = keys(tmp_path, requests_per_minute=1, tokens_per_minute=1)
    clients = Clients(
        made | {"bob": made["ada"].model_copy(update={"file": made["bob"].file})}, ledger
    )

    async def ask(secret: str) -> None:
        client = clients.who(f"Bearer {secret}")
        await clients.admit(client)
        clients.used(client, 5)

    for secret in ("sk-ada", "sk-bob", "sk-third", "sk-third"):
        asyncio.run(ask(secret))
    for secret in ("sk-ada", "sk-bob"):
        with pytest.raises(Beyond):
            asyncio.run(ask(secret))


@given(took=st.integers(60, 6000), limit=st.integers(1, 600))
def test_tokens_beyond_the_minutes_are_paid_off(
    tmp_path_factory: pytest.TempPathFactory, took: int, limit: int
) -> None:
    """One answer may be longer than a minute's tokens: on average it is no more."""
    folder = tmp_path_factory.mktemp("keys")
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr("pipeline.gateway.clients.time.monotonic", clock)
        clients = Clients(keys(folder, tokens_per_minute=limit), Unused())
        assert asked(clients) == [None]
        clients.used(only(clients), took)
        beyond = asked(clients)[0]
        assert (beyond is None) == (took <= limit - 1)
        if beyond is None:
            return
        assert (beyond.status, beyond.reason) == (429, "tokens")
        wait_s = int(headers(beyond)["retry-after"])
        assert (took - limit) * 60 / limit <= wait_s <= (took - limit + 1) * 60 / limit + 1
        clock.now += wait_s - 1.001
        assert asked(clients) != [None]
        clock.now += 1.001
        assert asked(clients) == [None]


class Unused(Ledger):
    """Where nothing is asked of it."""

    def __init__(self) -> None:
        pass


def test_tokens_come_back_but_no_more_than_a_minutes(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    clients = Clients(keys(tmp_path, tokens_per_minute=60), ledger)
    clock.now += 3600
    clients.used(only(clients), 60)
    assert asked(clients) != [None]
    clock.now += 1
    assert asked(clients) == [None]


def test_a_spent_budget_is_said_with_its_end(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    clients = Clients(keys(tmp_path, budget=Budget(soft=1, hard=2, days=7)), ledger)
    ledger.add(Use("bob", "f", "m", "t", cost=99))
    ledger.add(Use("ada", "f", "m", "t", cost=1.5))
    assert asked(clients) == [None]
    assert list(clients.budgets()) == [("ada", "soft", 1.5), ("ada", "hard", 0.75)]
    ledger.add(Use("ada", "f", "m", "t", cost=0.5))
    beyond = asked(clients)[0]
    assert beyond is not None and (beyond.status, beyond.reason) == (429, "budget")
    error = beyond.body["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert error["message"] == (
        "This API key's budget of 7 days is spent: there is room again from 2026-01-08 00:00 UTC."
    )
    assert int(headers(beyond)["retry-after"]) == 6.5 * DAY_S
    assert headers(beyond)["x-should-retry"] == "false"
    clock.now += 6.5 * DAY_S - 1
    again = asked(clients)[0]
    assert again is not None and int(headers(again)["retry-after"]) == 60  # a second is left
    clock.now += 1
    assert asked(clients) == [None]


def test_a_soft_budget_refuses_nobody_and_one_of_nothing_everybody(
    tmp_path: Path, ledger: Ledger
) -> None:
    ledger.add(Use("ada", "f", "m", "t", cost=5))
    soft = Clients(keys(tmp_path, budget=Budget(soft=1)), ledger)
    assert asked(soft) == [None]
    none = Clients(keys(tmp_path, budget=Budget(hard=0)), ledger)
    beyond = asked(none)[0]
    assert beyond is not None and "it has none" in beyond.body["error"]["message"]
    assert "retry-after" not in headers(beyond)
    assert list(none.budgets()) == [("ada", "hard", 1.0)]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"messages": []}, {"max_tokens": 32}),
        ({"messages": [], "max_tokens": None}, {"max_tokens": 32}),
        ({"messages": [], "max_tokens": 31}, {"max_tokens": 31}),
        ({"messages": [], "max_tokens": 33}, {"max_tokens": 32}),
        ({"messages": [], "max_completion_tokens": 33}, {"max_completion_tokens": 32}),
        (
            {"messages": [], "max_completion_tokens": 5, "max_tokens": 10**30},
            {"max_completion_tokens": 5, "max_tokens": 32},
        ),
        ({"prompt": ""}, {"max_tokens": 16}),
        ({"prompt": "", "max_tokens": 100}, {"max_tokens": 32}),
        (
            {"prompt": "", "max_completion_tokens": 100},
            {"max_completion_tokens": 32, "max_tokens": 16},
        ),
    ],
)
def test_answers_are_no_longer_than_the_key_has(
    request_: dict[str, Any], expected: dict[str, Any]
) -> None:
    client, before = Client("ada", Key(file="f", max_tokens=32)), dict(request_)
    assert capped(client, request_) == request_ | expected
    assert request_ == before
    assert capped(Client("bob", Key(file="f")), request_) == request_
    small = capped(Client("eve", Key(file="f", max_tokens=4)), {"prompt": ""})
    assert small == {"prompt": "", "max_tokens": 4}


@pytest.mark.parametrize("value", ["100", 1e9, True, 0, -1, [], {}])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_length_that_servers_read_differently_is_refused(name: str, value: Any) -> None:
    client = Client("ada", Key(file="f", max_tokens=32))
    with pytest.raises(Problem) as refused:
        capped(client, {"messages": [], name: value})
    assert (refused.value.status, refused.value.body["error"]["param"]) == (400, name)
