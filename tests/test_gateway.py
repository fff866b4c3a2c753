"""The gateway over HTTP, before servers that do what servers do."""

from __future__ import annotations

import asyncio
import datetime
import http.client
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Rejected
from pipeline.gateway import answering, routing, started, stream, watch
from pipeline.gateway.deploy_file import Cache, Deploy, Key, Model
from pipeline.gateway.deploy_file import Tier as Settings
from pipeline.gateway.promise import Promise
from pipeline.gateway.started import Started
from pipeline.gateway.tier import Tier
from pipeline.release.signoff.standing import Standing
from tests.gateway import WORDS, Running, Server, Thread, approved, promised, running
from tests.openapi import hold_to
from tests.serving import until

TEXT = "".join(WORDS)


class Scene:
    """Two servers, `edge` and `cloud`, behind one model, `chat`."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.edge, self.cloud = Server("edge1"), Server("c10ud")
        self.threads = {}
        for name, server in (("edge", self.edge), ("cloud", self.cloud)):
            self.threads[name] = Thread(server.app())
            server.url = f"http://127.0.0.1:{self.threads[name].port}/v1"
            stack.callback(self.threads[name].stop)

    def gateway(
        self,
        edge: Promise | None = None,
        cloud: Promise | None = None,
        again: Callable[..., Standing] | None = None,
        model: dict[str, Any] | None = None,
        timeout_s: float = 20.0,
        edge_is_started: bool = False,
        **deploy: Any,
    ) -> Running:
        settings = {
            name: Settings(bundle="x", url=url, timeout_s=timeout_s, price_per_hour=price)
            for name, url, price in (
                ("edge", None if edge_is_started else self.edge.url, 36.0),
                ("cloud", self.cloud.url, 360.0),
            )
        }
        tiers = [
            Tier("chat", "edge", settings["edge"], approved("edge1", edge, again)),
            Tier("chat", "cloud", settings["cloud"], approved("c10ud", cloud)),
        ]
        whole = Deploy(
            models={"chat": Model(tiers=settings, **(model or {}))},
            usage=str(self._folder / "usage.sqlite"),
            **deploy,
        )
        gateway = self._stack.enter_context(running(whole, {"chat": tiers}))
        self._stack.callback(self._end)
        return gateway

    def _end(self) -> None:
        """The servers stop while the gateway does, which is quicker than one after another."""
        for thread in self.threads.values():
            thread.end()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(tmp_path, stack)


def ask(
    gateway: Running,
    path: str = "chat/completions",
    headers: dict[str, str] | None = None,
    **more: Any,
) -> tuple[int, dict[str, str], bytes]:
    content = {"messages": [{"role": "user", "content": "hello"}]}
    body = {
        "model": "chat",
        **(content if path.startswith("chat") else {"prompt": "hello"}),
        **more,
    }
    return call(gateway, f"/v1/{path}", headers, json.dumps(body).encode())


def call(
    gateway: Running, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{gateway.port}{path}", body, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def text(body: bytes) -> str:
    """Of a whole answer, or of a stream with its last event in place."""
    if not body.startswith(b"data:"):
        return str(json.loads(body)["choices"][0]["message"]["content"])
    lines = [line[6:] for line in body.decode().split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert all(chunk.get("model", "chat") == "chat" for chunk in chunks)
    return "".join(
        chunk["choices"][0]["delta"]["content"] for chunk in chunks if "choices" in chunk
    )


def counted(gateway: Running, name: str, **labels: str) -> float:
    """The sum of a metric over all that have these labels."""
    total = 0.0
    for line in call(gateway, "/metrics")[2].decode().splitlines():
        key, _, value = line.rpartition(" ")
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        if key.split("{")[0] == f"quantgate_gateway_{name}" and all(one in key for one in wanted):
            total += float(value)
    return total


@pytest.mark.parametrize("streamed", [False, True])
def test_the_preferred_tier_answers(scene: Scene, streamed: bool) -> None:
    gateway = scene.gateway()
    status, headers, body = ask(gateway, stream=streamed)
    assert (status, text(body), headers["x-quantgate-tier"]) == (200, TEXT, "edge")
    assert headers["x-quantgate-digest"] == "sha256:edge1"
    assert not scene.cloud.asked
    assert ("usage" in json.dumps(scene.edge.asked)) == streamed  # asked for, and not shown
    assert b"usage" not in body or not streamed
    work = {"model": "chat", "tier": "edge", "feature": "other"}
    assert counted(gateway, "requests_total", **work, status="200") == 1
    assert counted(gateway, "tokens_total", **work, kind="completion") == 3
    assert counted(gateway, "time_to_first_token_seconds_count", tier="edge") == streamed


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("ill", ["error", "hang", "busy", "long", "vllm-long", "killed", "moved"])
def test_another_tier_answers_for_one_that_does_not(scene: Scene, ill: str, streamed: bool) -> None:
    gateway = scene.gateway(timeout_s=0.3)
    if ill == "killed":
        scene.threads["edge"].stop()
    else:
        scene.edge.behaviour = ill
    status, headers, body = ask(gateway, stream=streamed)
    assert (status, text(body), headers["x-quantgate-tier"]) == (200, TEXT, "cloud")
    assert counted(gateway, "fallbacks_total", tier="edge") == 1


def test_a_stream_that_is_cut_before_its_first_token_is_asked_for_elsewhere(scene: Scene) -> None:
    gateway = scene.gateway()
    scene.edge.breaks_at, scene.edge.behaviour = 1, "cut"
    status, headers, body = ask(gateway, stream=True)
    assert (status, text(body), headers["x-quantgate-tier"]) == (200, TEXT, "cloud")


@pytest.mark.parametrize("ill", ["cut", "stall"])
def test_a_stream_that_breaks_off_ends_with_an_error(
    scene: Scene, ill: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "STALL_S", 0.3)
    gateway = scene.gateway()
    scene.edge.behaviour = ill
    status, headers, body = ask(gateway, stream=True)
    assert (status, headers["x-quantgate-tier"], text(body)) == (200, "edge", WORDS[0])
    assert b'"code": "broke_off"' in body
    assert not scene.cloud.asked


def test_a_clients_own_fault_is_no_reason_to_ask_another(scene: Scene) -> None:
    gateway = scene.gateway()
    scene.edge.behaviour = "bad"
    assert ask(gateway)[0] == 400
    assert not scene.cloud.asked


def test_whatever_the_openapi_allows_is_answered_as_it_says(scene: Scene, tmp_path: Path) -> None:
    """What the schema allows and what it does not, with the one model's name."""
    gateway = scene.gateway()
    schema = json.loads(call(gateway, "/openapi.json")[2])
    for path in ("/v1/chat/completions", "/v1/completions"):
        content = schema["paths"][path]["post"]["requestBody"]["content"]
        content["application/json"]["schema"]["properties"]["model"] = {"const": "chat"}
    # what no schema says: 1.0 is no whole number here
    hold_to(schema, gateway.port, tmp_path, "positive_data_acceptance")
    for status in ("200", "400"):  # both were asked for
        assert counted(gateway, "http_responses_total", path="/v1/completions", status=status)


def test_nobody_is_left(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.gateway.answering.WAIT_S", 0.2)
    gateway = scene.gateway()
    scene.edge.behaviour = scene.cloud.behaviour = "busy"
    status, headers, _ = ask(gateway)
    assert (status, headers["retry-after"]) == (429, "7")
    assert ask(gateway)[0] == 429  # it is known for a second
    time.sleep(1.1)
    scene.edge.behaviour = "error"
    status, headers, body = ask(gateway)
    assert status == 503
    assert "edge: failed; cloud: busy" in json.loads(body)["error"]["message"]
    assert "retry-after" in headers


def test_the_target_decides_by_what_was_measured(scene: Scene) -> None:
    """Long times, which a busy machine does not add up to."""
    gateway = scene.gateway(edge=promised(4000, 200), cloud=promised(1000, 20))
    slow, quick = {"X-Latency-Target-Ms": "40000"}, {"X-Latency-Target-Ms": "6000"}
    assert ask(gateway, headers=slow, max_tokens=20)[1]["x-quantgate-tier"] == "edge"  # 8 s
    assert ask(gateway, headers=quick, max_tokens=20)[1]["x-quantgate-tier"] == "cloud"
    less = {"X-Latency-Target-Ms": "14000"}
    assert ask(gateway, headers=less, max_tokens=20)[1]["x-quantgate-tier"] == "edge"
    assert ask(gateway, headers=less, max_tokens=60)[1]["x-quantgate-tier"] == "cloud"  # 16 s
    assert counted(gateway, "latency_targets_total", met="yes") == 4
    assert ask(gateway, headers={"X-Latency-Target-Ms": "soon"})[0] == 400


def test_a_slow_tier_is_left_while_another_can_still_meet_the_target(scene: Scene) -> None:
    gateway = scene.gateway(edge=promised(20), cloud=promised(20))
    scene.edge.delay_s = 30
    start = time.monotonic()
    status, headers, _ = ask(gateway, headers={"X-Latency-Target-Ms": "1000"}, max_tokens=3)
    assert (status, headers["x-quantgate-tier"]) == (200, "cloud")
    assert time.monotonic() - start < 1.2
    assert counted(gateway, "tries_total", tier="edge", outcome="late") == 1


def test_load_moves_requests_on(scene: Scene) -> None:
    gateway = scene.gateway()
    scene.edge.delay_s = scene.cloud.delay_s = 3
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(gateway), range(12)))
    tiers = [headers["x-quantgate-tier"] for _, headers, _ in answers]
    assert (tiers.count("edge"), tiers.count("cloud")) == (8, 4)  # 8 run at once on the edge


def test_a_tier_that_fails_is_left_alone_and_comes_back(scene: Scene) -> None:
    gateway = scene.gateway()
    scene.edge.behaviour = "error"
    for _ in range(10):
        assert ask(gateway)[1]["x-quantgate-tier"] == "cloud"
    assert len(scene.edge.asked) <= 4
    scene.edge.behaviour = "ok"
    until(lambda: ask(gateway)[1]["x-quantgate-tier"] == "edge")


def test_a_server_that_exchanged_its_model_is_asked_nothing(scene: Scene) -> None:
    gateway = scene.gateway()
    scene.edge.digest = "an0ther"
    status, headers, _ = ask(gateway)
    assert (status, headers["x-quantgate-tier"]) == (200, "cloud")
    until(lambda: gateway.tiers["edge"].unready is not None)
    assert "an0ther" in str(gateway.tiers["edge"].unready)


@pytest.mark.parametrize(
    "error", [Rejected("rejected by ada: it lies"), PermissionError("policy.yaml")], ids=repr
)
def test_what_is_not_approved_any_more_is_left_in_time(scene: Scene, error: Exception) -> None:
    rejected: list[Exception] = []

    def again(now: Any) -> Standing:
        if rejected:
            raise rejected[0]
        return Standing("approved", [])

    gateway = scene.gateway(again=again, recheck_s=0.2, cache=Cache())
    assert ask(gateway, temperature=0)[1]["x-quantgate-tier"] == "edge"
    assert ask(gateway, temperature=0)[1]["x-quantgate-cache"] == "hit"
    rejected.append(error)
    until(lambda: gateway.tiers["edge"].withdrawn is not None, within_s=2)
    answer = ask(gateway, temperature=0)[1]
    assert answer["x-quantgate-tier"] == "cloud" and "x-quantgate-cache" not in answer
    assert json.loads(call(gateway, "/health")[2])["tiers"]["chat/edge"] == "not approved"
    rejected.clear()
    until(lambda: ask(gateway)[1]["x-quantgate-tier"] == "edge")


SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "x", "schema": {"type": "object", "required": ["a"]}},
}


@pytest.mark.parametrize(
    ("rule", "edge_text", "behaviour", "more"),
    [
        ("empty", "  ", "ok", {}),
        ("cut", "abc", "length", {}),
        ("schema", '{"b": 1}', "ok", {"response_format": SCHEMA}),
        ("schema", "no JSON", "ok", {"response_format": {"type": "json_object"}}),
    ],
)
def test_an_answer_that_is_not_enough_goes_to_the_next_tier(
    scene: Scene,
    capfd: pytest.CaptureFixture[str],
    rule: str,
    edge_text: str,
    behaviour: str,
    more: dict[str, Any],
) -> None:
    gateway = scene.gateway(model={"escalate": [rule]})
    scene.edge.text, scene.edge.behaviour, scene.cloud.text = edge_text, behaviour, '{"a": 1}'
    scene.edge.delay_s = 0.02
    status, headers, body = ask(gateway, **more)
    assert (status, headers["x-quantgate-tier"], text(body)) == (200, "cloud", '{"a": 1}')
    assert counted(gateway, "escalations_total", tier="edge", rule=rule) == 1
    said = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "escalated" in line]
    assert [(one["to"], one["why"], one["cost"] > 0) for one in said] == [("cloud", rule, True)]


def test_an_answer_that_is_enough_stays(scene: Scene) -> None:
    gateway = scene.gateway(model={"escalate": ["empty", "cut", "schema"]})
    scene.edge.text = '{"a": 1}'
    assert ask(gateway, response_format=SCHEMA)[1]["x-quantgate-tier"] == "edge"


def test_the_cheaper_answer_is_better_than_none(scene: Scene) -> None:
    gateway = scene.gateway(model={"escalate": ["empty"]})
    scene.edge.text, scene.cloud.behaviour = "", "error"
    for streamed in (False, True):
        status, headers, body = ask(gateway, stream=streamed)
        assert (status, headers["x-quantgate-tier"], text(body)) == (200, "edge", "")


@pytest.mark.parametrize("streamed", [False, True])
def test_equal_requests_share_an_answer(scene: Scene, streamed: bool) -> None:
    gateway = scene.gateway(cache=Cache())
    scene.edge.delay_s = 2
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: ask(gateway, temperature=0, stream=streamed), range(5)))
    assert [text(body) for _, _, body in answers] == [TEXT] * 5
    assert len(scene.edge.asked) == 1
    scene.edge.delay_s = 0
    status, headers, body = ask(gateway, temperature=0, stream=streamed)
    assert (status, headers["x-quantgate-cache"], text(body)) == (200, "hit", TEXT)
    assert body == answers[0][2]
    assert counted(gateway, "cache_requests_total", outcome="hit") == 1
    assert counted(gateway, "cache_requests_total", outcome="joined") == 4
    ask(gateway, stream=streamed)  # sampled
    ask(gateway, temperature=0, stream=streamed, max_tokens=9)
    assert len(scene.edge.asked) == 3


def test_an_error_is_not_kept(scene: Scene) -> None:
    gateway = scene.gateway(cache=Cache())
    scene.edge.behaviour = "bad"
    assert ask(gateway, temperature=0)[0] == 400
    scene.edge.behaviour = "cut"
    assert b"broke_off" in ask(gateway, temperature=0, stream=True)[2]
    scene.edge.behaviour = "ok"
    assert text(ask(gateway, temperature=0, stream=True)[2]) == TEXT
    assert text(ask(gateway, temperature=0)[2]) == TEXT


def test_a_key_is_asked_for_and_bounds_hold(scene: Scene, tmp_path: Path) -> None:
    for name in ("ada", "bob"):
        (tmp_path / f"{name}.key").write_text(f"secret-of-{name}\n")
    keys = {
        "ada": Key(file=str(tmp_path / "ada.key"), requests_per_minute=3, max_tokens=7),
        "bob": Key(file=str(tmp_path / "bob.key"), admin=True),
    }
    gateway = scene.gateway(keys=keys, cache=Cache(), features=["chatbot"])
    ada, bob = ({"Authorization": f"Bearer secret-of-{name}"} for name in ("ada", "bob"))
    assert ask(gateway)[0] == 401
    assert ask(gateway, headers={"Authorization": "Bearer secret-of-eve"})[0] == 401
    feature = {"X-Feature": "chatbot"}
    assert ask(gateway, headers=ada | feature, temperature=0, max_tokens=100)[0] == 200
    assert scene.edge.asked[-1]["max_tokens"] == 7
    assert scene.edge.keys == [None]  # the client's key is not the server's business
    assert ask(gateway, headers=bob, temperature=0, max_tokens=7)[0] == 200
    assert len(scene.edge.asked) == 2  # no answer of another's
    answers = [ask(gateway, headers=ada)[0] for _ in range(4)]
    assert answers == [200, 200, 429, 429]
    assert counted(gateway, "refused_total", key="ada", reason="requests") == 2
    assert ask(gateway, headers=bob)[0] == 200
    usage = json.loads(call(gateway, "/usage", ada)[2])["usage"]
    assert {row["key"] for row in usage} == {"ada"}
    assert sum(row["requests"] for row in usage if row["feature"] == "chatbot") == 1
    assert {row["key"] for row in json.loads(call(gateway, "/usage", bob)[2])["usage"]} == {
        "ada",
        "bob",
    }
    assert call(gateway, "/usage")[0] == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"model": 7}', 400),
        (b'{"model": "chat", "max_tokens": 0}', 400),
        (b'{"model": "chat", "max_tokens": "9"}', 400),
        (b'{"model": "chat", "temperature": NaN}', 400),
        (b'{"model": "chat", "stream": "yes"}', 400),
        (b"[" * 100_000, 400),
        (b'{"model": "\xff"}', 400),
        (b'{"model": "other"}', 404),
    ],
)
def test_a_malformed_request_is_said_so(scene: Scene, body: bytes, status: int) -> None:
    gateway = scene.gateway()
    got, _, answer = call(gateway, "/v1/chat/completions", None, body)
    assert got == status
    assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}
    assert not scene.edge.asked


def test_a_body_that_is_too_large_is_not_waited_for(scene: Scene) -> None:
    gateway = scene.gateway()
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Length", str(9 << 20))
    connection.endheaders()
    assert connection.getresponse().status == 413


def test_whoever_hangs_up_frees_the_place(scene: Scene) -> None:
    gateway = scene.gateway()
    scene.edge.delay_s = 20
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
    body = json.dumps({"model": "chat", "messages": []})
    connection.request("POST", "/v1/chat/completions", body)
    until(lambda: counted(gateway, "requests_in_flight", tier="edge") == 1)
    connection.close()
    until(lambda: counted(gateway, "requests_in_flight", tier="edge") == 0)
    assert counted(gateway, "tries_total", tier="edge", outcome="gave up") == 1


def test_what_operators_look_at(scene: Scene) -> None:
    gateway = scene.gateway()
    assert call(gateway, "/live")[0] == 200
    assert call(gateway, "/health")[0] == 200
    assert call(gateway, "/metrics/chat/edge")[2] == b"its_own_total 7\n"
    assert call(gateway, "/metrics/chat/other")[0] == 404
    [model] = json.loads(call(gateway, "/v1/models")[2])["data"]
    assert model["digests"] == {"edge": "sha256:edge1", "cloud": "sha256:c10ud"}
    for name in ("edge", "cloud"):
        scene.threads[name].stop()
    until(lambda: call(gateway, "/health")[0] == 503)
    scene.threads["cloud"].start()
    until(lambda: call(gateway, "/health")[0] == 200)
    assert ask(gateway)[1]["x-quantgate-tier"] == "cloud"


GOOD = {"choices": [{"index": 0, "message": {"content": "one two three"}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    "strange",
    [
        "",
        "[]",
        "{}",
        '{"choices": 7}',
        '{"choices": [7]}',
        "[" * 100_000,
        '{"choices": ' + "[" * 100_000,
        "\xff",
    ],
)
def test_a_servers_answer_of_any_form_is_no_error_of_ours(scene: Scene, strange: str) -> None:
    gateway = scene.gateway()
    scene.edge.behaviour, scene.edge.text = "raw", strange
    status, headers, _ = ask(gateway)
    assert (status, headers["x-quantgate-tier"]) == (200, "cloud")


@pytest.mark.parametrize("tokens", [-1, 2**60, 1e300, "7", None, [1], True])
def test_a_strange_usage_is_not_counted(scene: Scene, tokens: Any) -> None:
    gateway = scene.gateway()
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens}
    scene.edge.behaviour, scene.edge.text = "raw", json.dumps(GOOD | {"usage": usage})
    status, headers, _ = ask(gateway)
    assert (status, headers["x-quantgate-tier"]) == (200, "edge")
    assert counted(gateway, "tokens_total", tier="edge") == 0


SCHEMAS = [
    {"$ref": "http://127.0.0.1:9/x"},
    {"$ref": "#/nope"},
    {"pattern": "^(a+)+$"},
    {"pattern": "("},
    {"type": "foo"},
    {"multipleOf": 0},
    {
        "$defs": {str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 9} for n in range(99)},
        "$ref": "#/$defs/0",
    },
    [],
    "text",
    7,
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:30])
def test_a_clients_schema_stops_nothing(scene: Scene, schema: Any) -> None:
    gateway = scene.gateway(model={"escalate": ["schema"]})
    scene.edge.text = json.dumps("a" * 40 + "!")
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    start = time.monotonic()
    status, headers, _ = ask(gateway, response_format=form)
    assert (status, headers["x-quantgate-tier"]) == (200, "edge")
    assert time.monotonic() - start < 5


def test_one_request_speaks_against_a_server_once(scene: Scene) -> None:
    gateway = scene.gateway()
    scene.threads["cloud"].stop()
    scene.edge.behaviour, scene.edge.text = "raw", "{}"
    assert ask(gateway)[0] == 503
    assert len(scene.edge.asked) == 1
    scene.edge.behaviour, scene.edge.text = "ok", None
    assert ask(gateway)[0] == 200  # its breaker is closed


def test_a_full_server_is_not_asked_again_and_again(scene: Scene) -> None:
    gateway = scene.gateway()
    scene.threads["cloud"].stop()
    scene.edge.behaviour = "busy"  # for 7 s, which is longer than anybody waits
    start = time.monotonic()
    assert ask(gateway)[0] in (429, 503)
    assert time.monotonic() - start < 8
    assert len(scene.edge.asked) <= 8


def test_whoever_waits_for_a_place_gets_one_in_turn(scene: Scene) -> None:
    """More than the edge has places for, while the cloud hangs; some have a target that binds."""
    gateway = scene.gateway(edge=promised(50), cloud=promised(50), timeout_s=3)
    scene.edge.places, scene.edge.delay_s = 4, 0.05
    scene.cloud.behaviour = "hang"

    def one(number: int) -> tuple[int, float]:
        start = time.monotonic()
        target = {"X-Latency-Target-Ms": "1500"} if number % 3 else {}
        return ask(gateway, headers=target)[0], time.monotonic() - start

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(one, range(640)))
    assert Counter(status for status, _ in answers) == {200: 640}


def test_a_slow_server_is_not_taken_for_one_that_hangs(scene: Scene) -> None:
    """It misses targets, and answers who has none."""
    gateway = scene.gateway(edge=promised(100), cloud=promised(100))
    scene.edge.delay_s = 0.6
    lates = 0

    def answers(number: int) -> None:
        time.sleep(0.15 * number)
        while lates < 6:
            assert ask(gateway)[0] == 200

    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(answers, number) for number in range(4)]
        until(lambda: counted(gateway, "tries_total", tier="edge", outcome="answered") > 4)
        while lates < 6:
            assert ask(gateway, headers={"X-Latency-Target-Ms": "615"}, max_tokens=3)[0] == 200
            assert not gateway.tiers["edge"].breaker.is_open(time.monotonic())
            lates = int(counted(gateway, "tries_total", tier="edge", outcome="late"))
        assert [one.result() for one in others] == 4 * [None]


def test_a_tier_that_was_left_in_haste_is_asked_again(scene: Scene) -> None:
    """It is slow and works; whom the request went to for its target does not."""
    gateway = scene.gateway(edge=promised(100), cloud=promised(100), timeout_s=2)
    scene.edge.delay_s, scene.cloud.behaviour = 1.0, "hang"
    status, headers, _ = ask(gateway, headers={"X-Latency-Target-Ms": "300"}, max_tokens=3)
    assert (status, headers["x-quantgate-tier"]) == (200, "edge")
    assert len(scene.edge.asked) == 2


def test_a_request_in_haste_says_nothing_of_a_server(scene: Scene) -> None:
    """Not that it works either: one that gives nobody an answer for seconds is left out."""
    gateway = scene.gateway(edge=promised(100), cloud=promised(100))
    scene.edge.behaviour = "hang"
    breaker, start = gateway.tiers["edge"].breaker, time.monotonic()
    while not breaker.is_open(time.monotonic()):
        status, headers, _ = ask(gateway, headers={"X-Latency-Target-Ms": "300"}, max_tokens=3)
        assert (status, headers["x-quantgate-tier"]) == (200, "cloud")
        assert time.monotonic() - start < 20
    assert time.monotonic() - start > routing.SILENCE_S
    asked = len(scene.edge.asked)
    assert ask(gateway)[1]["x-quantgate-tier"] == "cloud"
    assert len(scene.edge.asked) == asked


def test_a_full_tier_is_ready(scene: Scene) -> None:
    """Or whoever balances load would take the whole gateway out for it."""
    gateway = scene.gateway()
    scene.threads["cloud"].stop()
    gateway.tiers["edge"].said_full(time.monotonic() + 60)
    assert call(gateway, "/health")[0] == 200


def test_the_last_reader_that_leaves_ends_a_shared_answer(scene: Scene) -> None:
    gateway = scene.gateway(cache=Cache())
    scene.edge.delay_s = 20
    body = json.dumps({"model": "chat", "messages": [], "temperature": 0})
    clients = [http.client.HTTPConnection("127.0.0.1", gateway.port) for _ in range(2)]
    for client in clients:
        client.request("POST", "/v1/chat/completions", body)
    until(lambda: counted(gateway, "cache_requests_total", outcome="joined") == 1)
    clients[0].close()
    time.sleep(0.5)
    assert counted(gateway, "requests_in_flight", tier="edge") == 1  # the other still waits
    clients[1].close()
    until(lambda: counted(gateway, "requests_in_flight", tier="edge") == 0)
    scene.edge.delay_s = 0
    assert ask(gateway, messages=[], temperature=0)[0] == 200
    assert counted(gateway, "requests_total", tier="cache", status="499") == 1
    assert counted(gateway, "requests_total", tier="cache", status="200") == 0


def test_tokens_of_a_stream_that_is_left_are_counted(scene: Scene) -> None:
    gateway = scene.gateway()
    scene.edge.behaviour = "stall"
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
    body = json.dumps({"model": "chat", "messages": [], "stream": True})
    connection.request("POST", "/v1/chat/completions", body)
    answer = connection.getresponse()
    assert b"one" in answer.fp.read(200)
    answer.close()
    connection.close()
    until(lambda: counted(gateway, "tries_total", tier="edge", outcome="gave up") == 1)
    assert counted(gateway, "tokens_total", tier="edge", kind="completion") == 1


@pytest.mark.parametrize("stream", [False, True])
def test_whoever_shares_an_answer_that_fails_is_counted_as_failed(
    scene: Scene, stream: bool
) -> None:
    """It is what its clients get, in the metrics and in what was used."""
    gateway = scene.gateway(cache=Cache())
    for server in (scene.edge, scene.cloud):
        server.behaviour, server.delay_s = "cut" if stream else "bad", 2
    with ThreadPoolExecutor(3) as pool:
        asking = [
            pool.submit(ask, gateway, temperature=0, stream=stream, max_tokens=9) for _ in range(3)
        ]
        answers = [one.result() for one in asking]
    shown, counts = (200, "502") if stream else (400, "400")
    assert [status for status, _, _ in answers] == [shown] * 3
    until(lambda: counted(gateway, "requests_total", status=counts) == 3)
    assert counted(gateway, "requests_total", tier="cache") == 2
    usage = json.loads(call(gateway, "/usage")[2])["usage"]
    assert not [row for row in usage if row["tier"] == "cache"]


def test_what_nobody_foresaw_is_counted_as_that(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = scene.gateway()
    monkeypatch.setattr(routing, "order", lambda *given: 1 / 0)
    assert ask(gateway)[0] == 500
    assert counted(gateway, "requests_total", status="500") == 1


def test_an_approval_that_ends_is_seen_at_once(scene: Scene) -> None:
    """Long before policy and log are read again."""
    gateway = scene.gateway(recheck_s=600)
    assert ask(gateway)[1]["x-quantgate-tier"] == "edge"
    gateway.tiers["edge"].approved.until = datetime.datetime.now(datetime.UTC)
    assert ask(gateway)[1]["x-quantgate-tier"] == "cloud"
    assert json.loads(call(gateway, "/health")[2])["tiers"]["chat/edge"] == "not approved"


class Child:
    """In place of a server that the gateway starts: a stand-in that runs already."""

    def __init__(self, url: str) -> None:
        self.url, self.key, self.stopped_at = url, None, 0.0

    def keep_running(self, ready: bool) -> None:
        return None

    async def stop(self) -> None:
        self.stopped_at = time.monotonic()


def test_what_runs_may_end_before_its_server_is_stopped(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = Child(scene.edge.url)
    monkeypatch.setattr(watch, "LASTS_S", 0.1)
    monkeypatch.setattr(watch, "Started", lambda what, damage: child)
    gateway = scene.gateway(drain_s=30, recheck_s=600, edge_is_started=True)
    scene.edge.delay_s = 3
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, gateway)
        until(lambda: scene.edge.at_once == 1)
        gateway.tiers["edge"].approved.until = datetime.datetime.now(datetime.UTC)
        assert ask(gateway)[1]["x-quantgate-tier"] == "cloud"
        status, headers, _ = asking.result()
        ended_at = time.monotonic()
    assert (status, headers["x-quantgate-tier"]) == (200, "edge")
    until(lambda: child.stopped_at > 0)
    assert child.stopped_at > ended_at - 1


def test_a_server_is_started_only_of_what_was_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also anew, after it has ended; and the files are not read again at every look."""
    wrong, looked, processes = ["model.bin: changed"], [0], list[subprocess.Popen[bytes]]()

    def damage() -> str | None:
        looked[0] += 1
        return wrong[0] if wrong else None

    def start(_: Any, __: int, ___: Path, log: Path, ____: str) -> subprocess.Popen[bytes]:
        log.touch()
        processes.append(subprocess.Popen(["sleep", "60"], start_new_session=True))
        return processes[-1]

    monkeypatch.setattr(started, "FIRST_S", 0.1)
    monkeypatch.setattr(started.server, "started", start)
    server = Started(approved("d").served, damage)
    assert [server.keep_running(ready=False) for _ in range(5)] == ["model.bin: changed"] * 5
    assert (looked, processes) == ([1], [])
    wrong.clear()
    until(lambda: server.keep_running(ready=False) is None)
    assert (looked, len(processes)) == ([2], 1)
    wrong.append("model.bin: changed")
    processes[0].kill()
    until(lambda: server.keep_running(ready=True) == "model.bin: changed")
    assert len(processes) == 1
    asyncio.run(server.stop())


def test_a_model_is_shown_by_its_name(scene: Scene) -> None:
    gateway = scene.gateway()
    shown = json.loads(call(gateway, "/v1/models/chat")[2])
    assert shown == json.loads(call(gateway, "/v1/models")[2])["data"][0]
    assert call(gateway, "/v1/models/other")[0] == 404


def test_a_tier_that_was_rejected_is_not_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other one cannot do is said as it says it, and as the client's own fault."""
    monkeypatch.setattr(answering, "WAIT_S", 0.2)
    gateway = scene.gateway(recheck_s=600, timeout_s=2)  # as long it waits for one that is full
    gateway.tiers["cloud"].withdrawn = "rejected"
    scene.edge.behaviour = "vllm-long"
    status, _, body = ask(gateway)
    assert status == 400
    assert "maximum context length" in json.loads(body)["error"]["message"]
    gateway.tiers["cloud"].withdrawn, scene.cloud.behaviour = None, "busy"
    status, _, body = ask(gateway)
    assert status == 503
    assert "maximum context length" in json.loads(body)["error"]["message"]


SECRET, WORDS_OF_A_PROMPT = "sk-of-the-store", "my doctor told me"


def malformed() -> list[tuple[int, str, dict[str, str], bytes]]:
    """The status that is right, path, headers, body."""
    good: dict[str, Any] = {
        "model": "chat",
        "messages": [{"role": "user", "content": WORDS_OF_A_PROMPT}],
    }
    chat, key = "/v1/chat/completions", {"Authorization": f"Bearer {SECRET}"}
    wrong: dict[str, list[Any]] = {
        "model": [None, 7, [], {}, True],
        "stream": ["yes", 1, [], {}, "true"],
        "stream_options": [7, "x", [], {"include_usage": "yes"}, {"include_usage": []}],
        "max_tokens": [0, -1, 1.5, "9", [], {}, True, 2**40, 10**400],
        "max_completion_tokens": [0, -1, 1.5, "9", [], {}, True, 2**40],
        "temperature": ["hot", [], {}, True],
        "seed": ["x", 1.5, [], {}, True],
    }
    bodies = [
        json.dumps(good | {name: value}).encode()
        for name, values in wrong.items()
        for value in values
    ]
    whole = json.dumps(good).encode()
    bodies += [whole[:end] for end in range(0, len(whole) - 1, 2)]
    bodies += [b"[" * 100_000, b"\xff" + whole, b"null", b"7", b'"text"', b"[]"]
    bodies += [whole.replace(b'"chat"', b"NaN"), whole[:-1] + b', "x": 1e999}']
    cases = [(400, chat, key, body) for body in bodies]
    cases += [
        (404, chat, key, json.dumps(good | {"model": name}).encode())
        for name in ("", "other", "chat/../x", "x" * 10_000)
    ]
    cases += [
        (400, chat, key | {"X-Latency-Target-Ms": value}, whole) for value in ("x", "-1", "nan")
    ]
    cases += [
        (401, chat, {"Authorization": value}, whole)
        for value in ("", "Bearer", "Basic x", "x" * 9_000)
    ]
    cases += [(404, "/v1/other", key, whole)]
    return [*cases, *((405, path, key, whole) for path in ("/v1/models/", "/usage"))]


def test_malformed_requests_are_said_so_and_leak_nothing(
    scene: Scene, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store.key").write_text(SECRET)
    gateway = scene.gateway(keys={"store": Key(file=str(tmp_path / "store.key"))})
    cases = malformed()
    assert len(cases) >= 100
    for right, path, headers, body in cases:
        status, _, answer = call(gateway, path, headers, body)
        assert status == right, (path, headers, body[:200])
        assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}
        assert b"Traceback" not in answer and SECRET.encode() not in answer
    assert not scene.edge.asked and not scene.cloud.asked
    for right, number in Counter(right for right, *_ in cases).items():
        assert counted(gateway, "http_responses_total", status=str(right)) == number
    said = capfd.readouterr()
    assert not any(word in said.out + said.err for word in (SECRET, WORDS_OF_A_PROMPT))


@pytest.mark.parametrize("passing", ["busy", "loading"])
def test_a_tier_that_could_not_yet_is_asked_again_after_one_that_hung(
    scene: Scene, passing: str
) -> None:
    gateway = scene.gateway(timeout_s=6)
    scene.edge.behaviour, scene.cloud.behaviour = passing, "hang"
    with ThreadPoolExecutor(16) as pool:
        asking = [pool.submit(ask, gateway, stream=number % 2 == 1) for number in range(16)]
        until(lambda: len(scene.cloud.asked) >= 12)
        scene.edge.behaviour = "ok"
        answers = [one.result() for one in asking]
    assert {(status, headers["x-quantgate-tier"]) for status, headers, _ in answers} == {
        (200, "edge")
    }


def test_a_server_that_still_loads_is_not_ready(scene: Scene) -> None:
    gateway = scene.gateway()
    scene.edge.behaviour = "loading"
    until(lambda: gateway.tiers["edge"].unready is not None)
    assert ask(gateway)[1]["x-quantgate-tier"] == "cloud"
    assert not scene.edge.asked
    scene.edge.behaviour = "ok"
    until(lambda: ask(gateway)[1]["x-quantgate-tier"] == "edge")


def test_what_one_tier_cannot_do_waits_for_another(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = scene.gateway()
    scene.edge.behaviour, scene.cloud.behaviour = "long", "busy"
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, gateway)
        until(lambda: len(scene.cloud.asked) == 1)
        scene.cloud.behaviour = "ok"
        status, headers, _ = asking.result()
    assert (status, headers["x-quantgate-tier"]) == (200, "cloud")
    scene.threads["cloud"].stop()
    monkeypatch.setattr(answering, "WAIT_S", 0.5)
    assert ask(gateway)[0] == 503  # which may pass; a 400 would say that it never does
