"""The OpenAI server over an engine, without one: what clients are answered, and what is kept from
them."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines import Sampling, generate
from pipeline.engines.fake import EOS, FakeEngine
from pipeline.serving.continuation import Continuation
from pipeline.serving.conversations import Conversations
from pipeline.serving.wire import Ask
from tests.openapi import hold_to
from tests.serving import DIGEST, NAME, SERVE, Letters, Losing, Running, running, until

SECRET, PROMPT = "the-servers-key", "xyzzyxyzzy"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with running(tmp_path, monkeypatch) as started:
        yield started


def call(
    server: Running, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, JSON, and headers of the answer; `body` as it is if it is bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    given_headers = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    connection.request("POST" if data is not None else "GET", path, data, given_headers)
    answer = connection.getresponse()
    text = answer.read()
    kind = answer.headers.get("content-type", "")
    found = json.loads(text) if "json" in kind else {"text": text.decode()}
    return answer.status, found, {k.lower(): v for k, v in answer.headers.items()}


def completion(server: Running, prompt: Any = "abc", **more: Any) -> Any:
    body = {"model": NAME, "prompt": prompt, "temperature": 0, "max_tokens": 8} | more
    return call(server, "/v1/completions", body)


def events(server: Running, path: str, body: dict[str, Any]) -> list[Any]:
    """All but the last, which must be [DONE]."""
    status, found, headers = call(server, path, body | {"stream": True})
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/event-stream")
    lines = [line for line in found["text"].split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def expected(prompt: str, tokens: int, folder: Path) -> str:
    """Straight from the engine."""
    text = Letters()
    with FakeEngine(folder, SERVE) as engine:
        ids = generate(engine, [text.encode(prompt)], [tokens], stop_at_eos=True)[0]
    return "".join(map(text.token, ids))


def test_a_completion_is_the_engines_whole_and_streamed(server: Running, tmp_path: Path) -> None:
    status, whole, _ = completion(server)
    choice = whole["choices"][0]
    assert (status, whole["object"], whole["model"]) == (200, "text_completion", NAME)
    assert choice["text"] == expected("abc", 8, tmp_path) != ""
    assert choice["finish_reason"] == "length"
    assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}
    body = {"model": NAME, "prompt": "abc", "temperature": 0, "max_tokens": 8}
    streamed = events(server, "/v1/completions", body | {"stream_options": {"include_usage": True}})
    assert streamed[-1]["choices"] == [] and streamed[-1]["usage"] == whole["usage"]
    parts = [chunk["choices"][0] for chunk in streamed[:-1]]
    assert "".join(part["text"] for part in parts) == choice["text"]
    assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + ["length"]
    assert len({chunk["id"] for chunk in streamed}) == 1


def test_a_dialogue_goes_through_the_template_and_has_all_the_room(
    server: Running, tmp_path: Path
) -> None:
    body = {
        "model": NAME,
        "temperature": 0,
        "messages": [
            {"role": "system", "content": "ab"},
            {"role": "user", "content": [{"type": "text", "text": "c"}]},
        ],
    }
    status, whole, _ = call(server, "/v1/chat/completions", body)
    message = whole["choices"][0]["message"]
    assert (status, whole["object"], message["role"]) == (200, "chat.completion", "assistant")
    assert message["content"] == expected("abc", SERVE.max_model_len - 3, tmp_path)
    streamed = [c["choices"][0]["delta"] for c in events(server, "/v1/chat/completions", body)]
    assert [delta.get("role") for delta in streamed] == ["assistant"] + [None] * (len(streamed) - 1)
    assert "".join(delta["content"] for delta in streamed) == message["content"]


def test_token_ids_are_a_prompt_too(server: Running) -> None:
    assert completion(server, [2, 3, 4])[1]["choices"] == completion(server)[1]["choices"]
    assert (
        completion(server, [[2, 3, 4]])[1]["choices"] == completion(server, ["abc"])[1]["choices"]
    )


def test_a_stop_string_ends_the_text_before_it(server: Running) -> None:
    text = completion(server)[1]["choices"][0]["text"]
    choice = completion(server, stop=text[3:5])[1]["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text[: text.index(text[3:5])], "stop")
    until(lambda: not server.backend.running)


@settings(max_examples=300)
@given(
    text=st.text("abc", max_size=30),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    sizes=st.lists(st.integers(1, 4), max_size=30),
)
def test_what_is_shown_is_the_text_up_to_the_first_stop_string(
    text: str, stop: list[str], sizes: list[int]
) -> None:
    continuation = Continuation(chr, stop)
    shown, rest = "", [ord(letter) for letter in text]
    for size in [*sizes, len(rest)]:
        if not continuation.stopped and rest:
            shown += continuation.add(rest[:size])
            rest = rest[size:]
            assert not any(one in shown for one in stop)
    shown += continuation.rest()
    # What ends first decides, as it comes first: tokens behind it were never made.
    ends = [place + len(one) for one in stop if (place := text.find(one)) >= 0]
    if not ends:
        assert shown == text
    else:
        assert text.startswith(shown) and continuation.stopped
        assert not any(one in shown for one in stop)
        assert any(text[len(shown) :].startswith(one) for one in stop)


BAD = {
    "no JSON": (b"{", 400, None, "not JSON"),
    "no object": (b"[]", 400, None, "body"),
    "not UTF-8": (b'{"model": "\xff"}', 400, None, ""),
    "too deep": (b'{"model":' + b"[" * 100_000, 400, None, ""),
    "no model": ({"prompt": PROMPT}, 400, None, "model"),
    "other model": ({"model": "other", "prompt": PROMPT}, 404, "model_not_found", "'other'"),
    "no prompt": ({"model": NAME}, 400, None, "prompt"),
    "empty prompt": ({"model": NAME, "prompt": ""}, 400, "invalid_value", "no token"),
    "two prompts": ({"model": NAME, "prompt": ["a", "b"]}, 400, None, "only one"),
    "strange token": ({"model": NAME, "prompt": [99]}, 400, "invalid_value", "99"),
    "unknown": ({"model": NAME, "prompt": "a", "fo": 1}, 400, "unknown_parameter", "fo"),
    "several": ({"model": NAME, "prompt": "a", "n": 2}, 400, "unsupported_value", "1 (found 2)"),
    "echo": ({"model": NAME, "prompt": "a", "echo": True}, 400, "unsupported_value", "found true"),
    "bias": (
        {"model": NAME, "prompt": "a", "logit_bias": {"3": 1}},
        400,
        "unsupported_value",
        "logit_bias: this server does not support it",
    ),
    "cold": ({"model": NAME, "prompt": "a", "temperature": -1}, 400, None, "found -1"),
    "no number": ({"model": NAME, "prompt": "a", "temperature": "1"}, 400, None, "temperature"),
    "infinite": (b'{"model": "fake", "prompt": "a", "temperature": Infinity}', 400, None, ""),
    "nothing": ({"model": NAME, "prompt": "a", "max_tokens": 0}, 400, None, "max_tokens"),
    "too long": (
        {"model": NAME, "prompt": "a", "max_tokens": 64},
        400,
        "context_length_exceeded",
        "64 tokens",
    ),
    "five stops": ({"model": NAME, "prompt": "a", "stop": list("abcde")}, 400, None, "stop"),
    "empty stop": ({"model": NAME, "prompt": "a", "stop": [""]}, 400, None, "stop"),
    "no stop": ({"model": NAME, "prompt": "a", "stop": ""}, 400, None, "stop"),
    "huge": ({"model": NAME, "prompt": "a", "top_k": 10**20}, 400, None, "top_k"),
    "no schema": (
        {"model": NAME, "prompt": "a", "response_format": {"type": "json_schema"}},
        400,
        None,
        "json_schema",
    ),
    "bad schema": (
        {
            "model": NAME,
            "prompt": "a",
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"type": "array", "items": {"type": "foo"}}},
            },
        },
        400,
        "unsupported_value",
        "response_format: #/items/type: found 'foo'",
    ),
    "large": (b'"' + b"a" * (2 << 20) + b'"', 413, None, "over 1052672 bytes"),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with (
        pytest.MonkeyPatch.context() as patch,
        running(tmp_path_factory.mktemp("serving"), patch, key=SECRET) as started,
    ):
        yield started


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_gets_openais_error(
    shared: Running, case: str, stream: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    body, status, code, words = BAD[case]
    if isinstance(body, dict):
        body = body | {"stream": stream}
    found_status, found, _ = call(shared, "/v1/completions", body, Authorization=f"Bearer {SECRET}")
    assert found_status == status, found
    error = found["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert words in error["message"]
    assert "Traceback" not in json.dumps(found) and PROMPT not in json.dumps(found)
    said = "".join(capfd.readouterr())
    assert PROMPT not in said and SECRET not in said and "Traceback" not in said


def test_whatever_the_openapi_allows_is_answered_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By schemathesis: what the schema allows and what it does not, with the one model's name."""
    with running(tmp_path, monkeypatch, willing=True) as server:
        _, schema, _ = call(server, "/openapi.json")
        for name in ("CompletionRequest", "ChatRequest"):
            schema["components"]["schemas"][name]["properties"]["model"] = {"const": NAME}
        # what no schema says: no token, or too many
        hold_to(schema, server.port, tmp_path, "positive_data_acceptance")
        _, found, _ = call(server, "/metrics")
    for status in (200, 400):  # both were asked for
        assert f'endpoint="/v1/completions",status="{status}"' in found["text"]


@pytest.mark.parametrize(
    "shown",
    [None, "", "Bearer", "Bearer wrong", f"Basic {SECRET}", f"Bearer {SECRET}x", "Bearer é"],
)
def test_who_does_not_know_the_key_learns_nothing(shared: Running, shown: str | None) -> None:
    more = {} if shown is None else {"Authorization": shown}
    for path, body in (("/v1/models", None), ("/v1/completions", {}), ("/v1/nothing", None)):
        status, found, headers = call(shared, path, body, **more)
        assert (status, found["error"]["code"]) == (401, "invalid_api_key")
        assert headers["www-authenticate"] == "Bearer"
    assert call(shared, "/health")[0] == 200


def test_a_body_that_is_not_called_json_is_told_so(server: Running) -> None:
    """As curl -d calls it, where nothing else is said."""
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    status, found, _ = call(server, "/v1/completions", {"model": NAME, "prompt": "abc"}, **kind)
    assert status == 415
    assert found["error"]["message"].startswith("Content-Type: expected application/json")


def test_what_is_served_says_its_digest(server: Running) -> None:
    _, found, _ = call(server, "/v1/models")
    assert [(one["id"], one["digest"]) for one in found["data"]] == [(NAME, f"sha256:{DIGEST}")]
    assert call(server, f"/v1/models/{NAME}")[1] == found["data"][0]
    assert call(server, "/v1/models/other")[0] == 404
    assert call(server, "/docs")[0] == 404


def test_until_it_is_ready_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, monkeypatch, wait=False, load_s=6) as server:
        for status, found, headers in (call(server, "/health"), completion(server)):
            assert (status, found["error"]["code"]) == (503, "not_ready")
            assert int(headers["retry-after"]) > 0
        until(lambda: server.backend.ready)
        assert (call(server, "/health")[0], completion(server)[0]) == (200, 200)


def cache_use(server: Running) -> float:
    text = call(server, "/metrics")[1]["text"]
    (found,) = re.findall(r"^quantgate_kv_cache_usage_ratio (\S+)$", text, re.MULTILINE)
    return float(found)


def test_what_does_not_fit_into_the_queue_is_told_when_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two run, eight wait; the others are turned away, and no one is lost."""
    with (
        running(tmp_path, monkeypatch, step_s=0.5) as server,
        ThreadPoolExecutor(10) as pool,
    ):
        taken = [pool.submit(completion, server, max_tokens=4) for _ in range(10)]
        until(lambda: (server.backend.running, server.backend.waiting) == (2, 8))
        until(lambda: cache_use(server) == 1)
        for _ in range(3):
            status, found, headers = completion(server)
            assert (status, found["error"]["code"]) == (429, "queue_full")
            assert int(headers["retry-after"]) >= 1
        answers = [one.result() for one in taken]
        assert [status for status, _, _ in answers] == [200] * 10
        assert len({found["choices"][0]["text"] for _, found, _ in answers}) == 1
        assert completion(server)[0] == 200
        assert cache_use(server) == 0


def test_a_client_that_reads_nothing_holds_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All places and the queue are taken by such, and free once the engine is done with them."""
    with running(tmp_path, monkeypatch) as server:
        sampling = Sampling(20, ignore_eos=True)

        async def ask() -> list[Any]:
            made = [server.backend.stream([2, 3, 4], sampling, []) for _ in range(10)]
            for one in made:
                await anext(one)
            return made

        loop = server.loop
        silent = asyncio.run_coroutine_threadsafe(ask(), loop).result(30)
        until(lambda: server.backend.running == 0)
        assert all(completion(server)[0] == 200 for _ in range(3))
        for one in silent:
            asyncio.run_coroutine_threadsafe(one.aclose(), loop).result(30)


def opened(server: Running, stream: bool) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    body = {"model": NAME, "prompt": "abc", "temperature": 0, "max_tokens": 60, "stream": stream}
    data = json.dumps(body | {"ignore_eos": True}).encode()
    connection.request("POST", "/v1/completions", data, {"Content-Type": "application/json"})
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_whoever_hangs_up_frees_the_place(
    stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole answer would take 60 steps of half a second."""
    with running(tmp_path, monkeypatch, step_s=0.5) as server:
        connections = [opened(server, stream) for _ in range(3)]
        until(lambda: server.backend.running == 2 and server.backend.waiting == 1)
        for connection in connections:
            connection.close()
        until(lambda: server.backend.running == 0, within_s=15)
        assert completion(server, max_tokens=1)[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_dies_is_no_silence(
    stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path, monkeypatch, step_s=0.05, die_after=5) as server:
        answer = opened(server, stream).getresponse()
        text = answer.read().decode()
        if stream:
            first, *_, last, done = [line for line in text.split("\n\n") if line]
            assert json.loads(first.removeprefix("data: "))["choices"]
            error = json.loads(last.removeprefix("data: "))["error"]
            assert done == "data: [DONE]"
        else:
            assert answer.status == 503
            error = json.loads(text)["error"]
        assert error["code"] == "not_ready"
        until(server.backend.ended.is_set)
        assert call(server, "/health")[0] == completion(server)[0] == 503


def test_the_metrics_count_what_was_answered(server: Running) -> None:
    for _ in range(3):
        completion(server)
    completion(server, n=2)
    _, found, _ = call(server, "/metrics")
    lines = dict(line.rsplit(" ", 1) for line in found["text"].splitlines() if line[0] != "#")
    route = 'quantgate_requests_total{endpoint="/v1/completions",status="%s"}'
    assert (lines[route % 200], lines[route % 400]) == ("3.0", "1.0")
    assert float(lines["quantgate_prompt_tokens_total"]) == 9
    assert float(lines["quantgate_generation_tokens_total"]) == 24
    assert float(lines["quantgate_time_to_first_token_seconds_count"]) == 3
    assert float(lines["quantgate_time_per_output_token_seconds_count"]) == 3


def test_an_engine_that_says_what_is_no_report_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path, monkeypatch, step_s=0.05, babble_after=3) as server:
        assert opened(server, stream=False).getresponse().status == 503
        assert server.backend.ended.is_set()


def test_a_body_that_does_not_say_its_length_is_limited_too(shared: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=30)
    parts = (b"a" * (1 << 16) for _ in range(17))
    headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", parts, headers, encode_chunked=True)
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["error"]["code"]) == (413, None)
    assert call(shared, "/health")[0] == 200


def test_equal_requests_at_once_get_answers_of_their_own(server: Running) -> None:
    """Each stream has its own tokens, in order: none is lost, none is another's."""
    prompts = ["abc", "b", "za", "hello"]
    alone = {prompt: completion(server, prompt)[1]["choices"][0]["text"] for prompt in prompts}
    lock, wrong = threading.Lock(), []

    def ask(number: int) -> None:
        prompt = prompts[number % len(prompts)]
        body = {"model": NAME, "prompt": prompt, "temperature": 0, "max_tokens": 8}
        parts = [c["choices"][0]["text"] for c in events(server, "/v1/completions", body)]
        if "".join(parts) != alone[prompt]:
            with lock:
                wrong.append(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(80)))
    assert wrong == []


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_the_engines(server: Running, stream: bool, tmp_path: Path) -> None:
    body = {"model": NAME, "prompt": "abc", "temperature": 0, "max_tokens": 8, "logprobs": 0}
    if stream:
        parts = [chunk["choices"][0] for chunk in events(server, "/v1/completions", body)]
    else:
        parts = completion(server, logprobs=0)[1]["choices"]
    told = [part["logprobs"] for part in parts if part["logprobs"]]
    tokens = [token for one in told for token in one["tokens"]]
    text = "".join(tokens)
    assert text == "".join(part["text"] for part in parts)
    assert [offset for one in told for offset in one["text_offset"]] == list(range(len(text)))
    with FakeEngine(tmp_path, SERVE) as engine:
        scores = engine.echo(Letters().encode("abc" + text))[2:]
    assert [value for one in told for value in one["token_logprobs"]] == pytest.approx(scores)
    chat = {"model": NAME, "messages": [{"role": "user", "content": "abc"}], "temperature": 0}
    _, found, _ = call(server, "/v1/chat/completions", chat | {"max_tokens": 8, "logprobs": True})
    each = found["choices"][0]["logprobs"]["content"]
    assert [(one["token"], one["logprob"]) for one in each] == [
        (token, pytest.approx(score)) for token, score in zip(tokens, scores, strict=True)
    ]


def test_an_answer_is_history(server: Running) -> None:
    """As the official client gives it back, with what it holds besides the text."""
    first = {"role": "user", "content": "abc", "name": "ada"}
    body = {"model": NAME, "temperature": 0, "max_tokens": 4, "messages": [first]}
    _, found, _ = call(server, "/v1/chat/completions", body)
    body["messages"] = [first, found["choices"][0]["message"], first]
    assert call(server, "/v1/chat/completions", body)[0] == 200
    body["messages"][1]["tool_calls"] = [{"id": "x"}]
    assert call(server, "/v1/chat/completions", body)[0] == 400


def test_what_one_request_breaks_is_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path, monkeypatch, step_s=0.05) as server, ThreadPoolExecutor(1) as pool:
        other = pool.submit(completion, server, max_tokens=20, ignore_eos=True)
        status, found, _ = completion(server, prompt="q" * 7)
        assert (status, found["error"]["code"]) == (500, "engine_failed")
        assert other.result()[0] == completion(server)[0] == 200
    said = "".join(capfd.readouterr())
    assert "a request failed: KeyError (at " in said and "qqqqqqq" not in said


def conversations(folder: Path, *lose_at: int) -> Conversations:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS}))
    return Conversations(Losing(folder, SERVE, lose_at=lose_at), Letters(), folder, 64)


def begin(running: Conversations, key: int, schema: str | None = None) -> None:
    sampling = Sampling(6, ignore_eos=True, json_schema=schema)
    assert not running.begin(Ask(key=key, prompt="abc", sampling=sampling, stop=[])).refusal


def to_the_end(running: Conversations) -> dict[int, tuple[str, str | None]]:
    """The text of each, and why it was refused."""
    told: dict[int, tuple[str, str | None]] = {}
    while running.running:
        for answer in running.step():
            text = told.get(answer.key, ("", None))[0] + answer.text
            told[answer.key] = text, answer.refusal and answer.refusal.message
    return told


def test_what_an_engine_lost_begins_again_where_nobody_saw_any_of_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    running = conversations(tmp_path, 2)
    begin(running, 0)
    running.step()
    begin(running, 1)
    begin(running, 2, schema=json.dumps({"const": PROMPT}))
    told = to_the_end(running)
    assert told[0] == ("", "told to lose all")
    assert told[1] == (expected("abc", 6, tmp_path), None)
    assert told[2][1] is not None and told[2][1].startswith("told to lose all; the JSON schema")
    said = "".join(capfd.readouterr())
    assert "told to lose all: 1 requests begin again, 2 end" in said and PROMPT not in said


def test_what_an_engine_lost_twice_has_ended(tmp_path: Path) -> None:
    running = conversations(tmp_path, 1, 2)
    begin(running, 0)
    assert to_the_end(running) == {0: ("", "told to lose all")}


def test_what_is_not_taken_again_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    running = conversations(tmp_path, 1)
    begin(running, 0)
    monkeypatch.setattr(Losing, "submit", lambda *given: 1 / 0)
    assert to_the_end(running) == {0: ("", "The server failed on this request.")}
    assert "could not begin again: ZeroDivisionError (at " in "".join(capfd.readouterr())


@pytest.mark.parametrize("step", [1, 3])
def test_a_client_sees_nothing_of_it_or_an_error_event(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path, monkeypatch, lose_at=[step]) as server:
        body = {"model": NAME, "prompt": "abc", "max_tokens": 6, "ignore_eos": True}
        told = events(server, "/v1/completions", body)
        if step == 1:
            text = "".join(chunk["choices"][0]["text"] for chunk in told)
            assert text == expected("abc", 6, tmp_path)
        else:
            assert told[-1]["error"]["message"] == "told to lose all"
            assert told[-1]["error"]["code"] == "engine_failed"
        assert completion(server)[0] == 200


def test_greedy_is_all_that_some_engines_do(server: Running) -> None:
    status, found, _ = completion(server, temperature=0.5)
    assert status == 400 and "decodes greedily only" in found["error"]["message"]
    Sampling(5, top_p=0.5, seed=3).require_greedy("any")  # of no meaning at temperature 0
