"""Kept answers: which requests are equal, what is kept how long, and a real Redis that fails in
every way it can."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import assume, given
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipeline.errors import SetupError
from pipeline.gateway import soft_redis
from pipeline.gateway.cache import Kept, Memory, Redis, deterministic, key_of, open_store
from pipeline.gateway.deploy_file import Cache

ANSWER = Kept("text/event-stream; charset=utf-8", b'data: {"\xc3\xa9"}\n\ndata: [DONE]\n\n', 3, 5)
KEY, OTHER = "a" * 64, "b" * 64
SECRET = "hunter-two"
START_S = 20.0
SERVER = shutil.which("redis-server")

FIELDS = ("prompt", "messages", "temperature", "seed", "max_tokens", "stop", "n", "stream", "x")
NO_MATTER = (
    "model",
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(FIELDS)
requests = st.dictionaries(fields, values, max_size=5)


def key(request: dict[str, Any], digest: str = "d", path: str = "/v1/x", scope: str = "s") -> str:
    return key_of(digest, path, request, scope)


@given(content_type=st.text(), body=st.binary(), tokens=st.tuples(*[st.integers(0, 2**40)] * 2))
def test_an_answer_comes_back_as_it_was(
    content_type: str, body: bytes, tokens: tuple[int, int]
) -> None:
    kept = Kept(content_type, body, *tokens)
    assert Kept.from_bytes(kept.to_bytes()) == kept


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"garbage",
        b"\x80\x04\x95\n",
        b"[]\nbody",
        b"{}\nbody",
        ANSWER.to_bytes()[:-1],
        ANSWER.to_bytes() + b"x",
        ANSWER.to_bytes().replace(b'"prompt_tokens":3', b'"prompt_tokens":"3"'),
        ANSWER.to_bytes().replace(b'"prompt_tokens":3', b'"prompt_tokens":-3'),
        ANSWER.to_bytes().replace(b"{", b'{"more":1,', 1),
        b"[" * 100_000 + b"\n",
    ],
)
def test_what_is_no_answer_is_no_answer(data: bytes) -> None:
    with pytest.raises(ValueError):
        Kept.from_bytes(data)


def meaning(name: str, value: Any) -> Any:
    """A second way to say which values of a field are the same."""
    if value is None or (name, json.dumps(value)) in {("n", "1"), ("stream", "false")}:
        return None
    number = name == "temperature" and type(value) in (int, float)
    return float(value) + 0.0 if number else json.dumps(value)  # + 0.0: there is a -0.0


@given(requests, fields, values, values)
def test_requests_that_differ_in_a_field_have_different_keys(
    request_: dict[str, Any], field: str, one: Any, other: Any
) -> None:
    same = meaning(field, one) == meaning(field, other)
    assert (key(request_ | {field: one}) == key(request_ | {field: other})) == same
    without = {name: value for name, value in request_.items() if name != field}
    assert (key(without) == key(without | {field: one})) == (meaning(field, one) is None)


@given(requests, st.dictionaries(st.sampled_from(NO_MATTER), values))
def test_what_does_not_change_an_answer_does_not_change_the_key(
    request_: dict[str, Any], more: dict[str, Any]
) -> None:
    assert key(dict(reversed((request_ | more).items()))) == key(request_)


@given(st.text('",[]x', max_size=4), *[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 2)
def test_an_artifact_an_endpoint_and_a_scope_are_never_taken_for_each_other(
    text: str, one: tuple[int, int], other: tuple[int, int]
) -> None:
    """The same letters, cut in three elsewhere."""
    parts = [
        (text[: min(cut)], text[min(cut) : max(cut)], text[max(cut) :]) for cut in (one, other)
    ]
    assume(parts[0] != parts[1])
    keys = {key_of(digest, path, {}, scope) for digest, path, scope in parts}
    assert len(keys) == 2


EQUAL = [
    {"n": 1, "echo": False, "stream": False, "logit_bias": {}, "presence_penalty": 0.0},
    {"frequency_penalty": 0, "seed": None, "stop": None, "tools": None},
    {"temperature": 0.0},
]
DIFFERENT = [
    {"n": 2},
    {"n": True},
    {"stream": True},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"temperature": False},
    {"temperature": "0"},
    {"seed": 0},
    {"top_p": 1},  # which vLLM else takes from the model
    {"presence_penalty": 0.5},
    {"logprobs": True},
    {"max_tokens": 16},
    {"unknown": 1},
    {"tools": []},
]
CHAT = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0}


@pytest.mark.parametrize("more", EQUAL)
def test_a_default_may_be_written_out(more: dict[str, Any]) -> None:
    assert key(CHAT | more) == key(CHAT)


def test_each_setting_has_its_key() -> None:
    assert len({key(CHAT | more) for more in [{}, *DIFFERENT]}) == len(DIFFERENT) + 1


def test_the_order_within_a_schema_is_part_of_it() -> None:
    """The answer's fields come in that order."""
    one, other = {"a": {}, "b": {}}, {"b": {}, "a": {}}
    asked = [{"response_format": {"schema": {"properties": found}}} for found in (one, other)]
    assert key(asked[0]) != key(asked[1])


def test_halves_of_a_character_are_not_the_character() -> None:
    whole, halves = json.loads(b'"\xf0\x90\x80\x80"'), json.loads(b'"\xed\xa0\x80\xed\xb0\x80"')
    assert len({key({"prompt": prompt}) for prompt in (whole, halves, "??", "?")}) == 4


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, False),
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": -0.0}, True),
        ({"temperature": 1e-9}, False),
        ({"temperature": None}, False),
        ({"temperature": False}, False),
        ({"temperature": "0"}, False),
        ({"temperature": [0]}, False),
        ({"temperature": 1, "seed": 0}, True),
        ({"seed": 7}, True),
        ({"seed": None}, False),
        ({"seed": True}, False),
        ({"seed": "7"}, False),
    ],
)
def test_only_the_coldest_or_seeded_is_deterministic(
    request_: dict[str, Any], expected: bool
) -> None:
    assert deterministic(request_) is expected


def test_no_cache_is_no_store() -> None:
    assert open_store(None) is None
    assert isinstance(open_store(Cache()), Memory)


def memory(timer: Callable[[], float] = time.monotonic, **more: Any) -> Memory:
    return Memory(Cache(**more), timer)


def test_memory_forgets_after_the_ttl_and_after_the_end() -> None:
    now = [0.0]

    async def scenario() -> None:
        store = memory(lambda: now[0], ttl_s=10)
        await store.put(KEY, ANSWER)
        now[0] = 9.9
        assert (await store.get(KEY), await store.get(OTHER)) == (ANSWER, None)
        now[0] = 10.1
        assert (await store.get(KEY), (await store.size())[0]) == (None, 0)
        await store.put(KEY, ANSWER)
        await store.close()
        assert await store.get(KEY) is None

    asyncio.run(scenario())


def test_memory_keeps_no_more_than_its_room() -> None:
    """Measured, with all that Python needs beside the bodies; what was asked for last stays."""

    async def scenario() -> None:
        store = memory(most_mib=1)
        await store.put(KEY, ANSWER)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(3000):
            answer = Kept(f"text/{number}", b"%d" % number, number, number)
            await store.put(f"{number:064}", answer)
            assert await store.get(KEY) == ANSWER
        used, limit = await store.size()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert limit == 2**20 and limit / 2 < used <= limit
        assert limit / 2 < grown <= limit
        assert await store.get(f"{0:064}") is None
        assert await store.get(f"{2999:064}") is not None

    asyncio.run(scenario())


@pytest.mark.parametrize("room", [{"most_answer_kib": 1}, {"most_mib": 1, "most_answer_kib": 4096}])
def test_memory_keeps_no_answer_above_the_largest(room: dict[str, int]) -> None:
    async def scenario() -> None:
        store = memory(**room)
        largest = 1024 if len(room) == 1 else 2**20 - 1024
        await store.put(OTHER, replace(ANSWER, body=b"x" * (largest + 1)))
        await store.put(KEY, replace(ANSWER, body=b"x" * largest))
        assert await store.get(OTHER) is None and await store.get(KEY) is not None

    asyncio.run(scenario())


class Server:
    """A redis-server of this test, on a port of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = int(free.getsockname()[1])
        self._folder, self._options = folder, options
        self.start()

    def start(self, *more: str) -> None:
        place = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder)]
        command = [str(SERVER), *place, "--save", "", *self._options, *more]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            try:
                self.ask("PING")
            except redis.AuthenticationError:
                return
            except redis.ConnectionError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError("redis-server did not start")

    def ask(self, *words: Any) -> Any:
        with redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0)) as client:
            return client.execute_command(*words)

    def send(self, kind: signal.Signals) -> None:
        self.process.send_signal(kind)
        if kind == signal.SIGKILL:
            self.process.wait(START_S)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@pytest.fixture
def start(tmp_path: Path) -> Any:
    if SERVER is None:
        pytest.skip("redis-server is not installed")
    started: list[Server] = []

    def begin(*options: str) -> Server:
        started.append(Server(tmp_path, *options))
        return started[-1]

    yield begin
    for server in started:
        server.process.kill()
        server.process.wait(START_S)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is tried again at once, almost."""
    monkeypatch.setattr(soft_redis, "PAUSE_S", 0.2)


@asynccontextmanager
async def opened(url: str, **more: Any) -> AsyncIterator[Redis]:
    store = open_store(Cache(url=url, **more))
    assert isinstance(store, Redis)
    try:
        yield store
    finally:
        await store.close()


async def within(limit_s: float, work: Coroutine[Any, Any, Any]) -> Any:
    start = time.monotonic()
    found = await work
    assert time.monotonic() - start < limit_s
    return found


async def comes_back(store: Redis) -> None:
    """With a new answer, without a restart of ours."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        await store.put(OTHER, ANSWER)
        if await store.get(OTHER) == ANSWER:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("still away")


async def is_away(store: Redis) -> None:
    """The first notices, within its time; the others do not even ask."""
    assert await within(0.9, store.get(KEY)) is None

    async def others() -> None:
        for _ in range(100):
            assert await store.get(KEY) is None
            await store.put(KEY, ANSWER)
            assert await store.size() == (0, 0)

    await within(0.5, others())


def test_redis_gives_back_what_it_got_until_the_ttl(start: Any) -> None:
    server = start()

    async def scenario() -> None:
        async with opened(server.url, ttl_s=1, most_answer_kib=1) as store:
            assert await store.get(KEY) is None
            await store.put(KEY, ANSWER)
            assert (await store.get(KEY), await store.get(OTHER)) == (ANSWER, None)
            assert server.ask("KEYS", "*") == [f"quantgate:{KEY}".encode()]
            assert 0 < server.ask("PTTL", f"quantgate:{KEY}") <= 1000
            await store.put(OTHER, replace(ANSWER, body=b"x" * 1025))
            assert await store.get(OTHER) is None
            await asyncio.sleep(1.1)
            assert await store.get(KEY) is None
        async with opened(server.url) as store, opened(server.url) as other:
            await store.put(KEY, ANSWER)
            assert await other.get(KEY) == ANSWER

    asyncio.run(scenario())


def test_redis_says_how_full_it_is(start: Any) -> None:
    server = start("--maxmemory", "64mb")

    async def scenario() -> None:
        async with opened(server.url) as store:
            used, limit = await store.size()
            assert limit == 64 * 2**20 and 100_000 < used < limit

    asyncio.run(scenario())


@pytest.mark.usefixtures("quick")
def test_killed_redis_is_slower_not_down_and_comes_back(
    start: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    server = start()

    async def scenario() -> None:
        async with opened(server.url) as store:
            for _ in range(2):
                await store.put(KEY, ANSWER)
                assert await store.get(KEY) == ANSWER
                server.send(signal.SIGKILL)
                await is_away(store)
                server.start()
                await comes_back(store)

    asyncio.run(scenario())
    said = capfd.readouterr().err
    where = f"the cache redis://127.0.0.1:{server.port}/0 fails"
    assert said.count(f"quantgate: {where} (ConnectionError; it is tried again every 0.2 s)") == 2
    assert said.count(f"quantgate: no longer: {where}") == 2
    assert len(said.splitlines()) == 4


def test_redis_may_close_what_was_idle(start: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """As its `timeout` does, and what stands between."""
    server = start()

    async def scenario() -> None:
        async with opened(server.url) as store:
            await store.put(KEY, ANSWER)
            for _ in range(3):
                server.ask("CLIENT", "KILL", "TYPE", "normal")
                await asyncio.sleep(0.01)
                assert await store.get(KEY) == ANSWER

    asyncio.run(scenario())
    assert not capfd.readouterr().err


@pytest.mark.usefixtures("quick")
def test_redis_that_stalls_holds_nobody_for_long(
    start: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    server = start()

    async def scenario() -> None:
        async with opened(server.url) as store:
            await store.put(KEY, ANSWER)
            server.send(signal.SIGSTOP)
            many = asyncio.gather(*(store.get(KEY) for _ in range(32)))
            assert await within(0.9, asyncio.wait_for(many, 5)) == [None] * 32
            await asyncio.sleep(0.3)
            # One finds out for all whether it is back.
            times = []

            async def timed() -> None:
                begin = time.monotonic()
                assert await store.get(KEY) is None
                times.append(time.monotonic() - begin)

            await asyncio.gather(*(timed() for _ in range(32)))
            assert sum(one > 0.2 for one in times) == 1
            server.send(signal.SIGCONT)
            await comes_back(store)
            assert await store.get(KEY) == ANSWER

    asyncio.run(scenario())
    assert len(capfd.readouterr().err.splitlines()) == 2


@pytest.mark.usefixtures("quick")
def test_a_password_is_asked_for_and_never_said(
    start: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = start("--requirepass", SECRET)
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    port = server.port
    wrong = [
        {"url": server.url},
        {"url": f"redis://:{SECRET}x@127.0.0.1:{port}/0"},
        {"url": f"redis://127.0.0.1:{port}/0?password={SECRET}x"},
        {"url": f"redis://somebody:{SECRET}@127.0.0.1:{port}/0"},
    ]
    right = [
        {"url": f"redis://:{SECRET}@127.0.0.1:{port}/0"},
        {"url": server.url, "password_file": str(file)},
        {"url": f"redis://default@127.0.0.1:{port}/0", "password_file": str(file)},
    ]

    async def scenario() -> None:
        for given_ in wrong:
            async with opened(**given_) as store:
                await is_away(store)
        for given_ in right:
            async with opened(**given_) as store:
                await store.put(KEY, ANSWER)
                assert await store.get(KEY) == ANSWER

    asyncio.run(scenario())
    said = capfd.readouterr().err
    assert said.count("AuthenticationError") == len(wrong) == len(said.splitlines())
    assert SECRET not in said


def test_a_redis_that_repeats_its_words_gives_no_password_away(
    start: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """As one does that has another name for AUTH."""
    server = start("--rename-command", "AUTH", "nothing")
    with pytest.raises(redis.ResponseError, match=SECRET):
        server.ask("AUTH", SECRET)

    async def scenario() -> None:
        async with opened(f"redis://:{SECRET}@127.0.0.1:{server.port}/0") as store:
            assert await store.get(KEY) is None

    asyncio.run(scenario())
    said = capfd.readouterr().err
    assert "ResponseError" in said and SECRET not in said


def test_what_is_no_answer_is_a_miss_and_is_replaced(
    start: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    server = start()
    name = f"quantgate:{KEY}"

    async def scenario() -> None:
        async with opened(server.url) as store:
            await store.put(OTHER, ANSWER)
            moved = server.ask("GET", f"quantgate:{OTHER}")
            garbage = (b"", b"garbage", b"\x00\n", f"{KEY}\n{{}}".encode(), moved, moved[:-1])
            commands = [("SET", name, value) for value in garbage]
            for command in [*commands, ("LPUSH", name, "x"), ("HSET", name, "x", "y")]:
                server.ask("DEL", name)
                server.ask(*command)
                assert await store.get(KEY) is None
                assert await store.get(OTHER) == ANSWER  # nobody else waits for it
                await store.put(KEY, ANSWER)
                assert await store.get(KEY) == ANSWER

    asyncio.run(scenario())
    said = capfd.readouterr().err.splitlines()
    assert said[0].endswith("holds what is no answer (it is made anew)")
    assert not any("fails" in line for line in said)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("begin", "end", "error"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "OutOfMemory"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "ReadOnly"),
    ],
)
def test_redis_that_takes_nothing_still_says_what_it_has(
    start: Any,
    capfd: pytest.CaptureFixture[str],
    begin: tuple[str, ...],
    end: tuple[str, ...],
    error: str,
) -> None:
    server = start("--maxmemory-policy", "noeviction")

    async def scenario() -> None:
        async with opened(server.url) as store:
            await store.put(KEY, ANSWER)
            server.ask(*begin)
            for _ in range(20):
                await store.put(OTHER, ANSWER)
                assert (await store.get(KEY), await store.get(OTHER)) == (ANSWER, None)
            assert server.ask("INFO", "commandstats")["cmdstat_set"]["rejected_calls"] <= 2
            server.ask(*end)
            await comes_back(store)

    asyncio.run(scenario())
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2 and f"takes no answers ({error}Error; " in said[0]
    assert said[1].startswith("quantgate: no longer: ")


@pytest.mark.parametrize("speech", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None])
def test_what_is_no_redis_is_as_good_as_none(
    speech: bytes | None, capfd: pytest.CaptureFixture[str]
) -> None:
    """It speaks another protocol, hangs up, or says nothing. It is asked once, not each time."""
    asked = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)
        await reader.read(1)
        if speech is not None:
            writer.write(speech)
            writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with opened(f"redis://127.0.0.1:{port}/0") as store:
            await is_away(store)
        server.close()
        for writer in asked:
            writer.close()

    asyncio.run(scenario())
    assert len(asked) == len(capfd.readouterr().err.splitlines()) == 1


def test_who_hangs_up_leaves_no_answer_for_the_next(start: Any) -> None:
    """A request that is cancelled while Redis answers; the next has the same connection."""
    server = start()
    answers = {f"{number:064}": replace(ANSWER, prompt_tokens=number) for number in range(50)}

    async def scenario() -> None:
        async with opened(server.url) as store:
            for name, kept in answers.items():
                await store.put(name, kept)
            for turn in range(20):
                tasks = {name: asyncio.create_task(store.get(name)) for name in answers}
                for _ in range(turn):
                    await asyncio.sleep(0)
                for task in list(tasks.values())[::2]:
                    task.cancel()
                await asyncio.wait(tasks.values())
                for name, task in tasks.items():
                    assert task.cancelled() or task.result() in (answers[name], None)
            for name, kept in answers.items():
                assert await store.get(name) == kept

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:pa/{SECRET}@localhost:6379/0",
        f"redis://:pa?{SECRET}@localhost:6379/0",
        f"redis://:{SECRET}?x@localhost:6379/0",
        f"redis://localhost:port/0?password={SECRET}@{SECRET}",
        f"redis://u:{SECRET}@localhost:99999999/0",
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SetupError, match="cache: url: ") as refused:
        open_store(Cache(url=url))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("content", ["", "\n", "two\nlines\n"])
def test_a_password_file_is_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "password"
    file.write_text(content)
    with pytest.raises(SetupError, match="one line"):
        open_store(Cache(url="redis://localhost/0", password_file=str(file)))


def test_of_two_passwords_one_is_too_many(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    for url in ("redis://:x@localhost/0", "redis://localhost/0?password=x"):
        with pytest.raises(SetupError, match="Leave one") as refused:
            open_store(Cache(url=url, password_file=str(file)))
        assert SECRET not in str(refused.value)
