"""What a collector of OpenTelemetry gets of a request and its tries, over real HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from pipeline.gateway.deploy_file import Cache, Key
from tests.gateway import Thread
from tests.test_gateway import Scene, ask

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CAME_WITH = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
PROMPT, SECRET = "a prompt of nobody else", "secret-of-the-shop"


class Collector:
    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/traces")
        async def traces(request: Request) -> Response:
            self.bodies.append(await request.body())
            return Response(media_type="application/x-protobuf")

        return app

    def spans(self) -> list[Span]:
        return [
            span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[tuple[Collector, str]]:
    collector = Collector()
    thread = Thread(collector.app())
    yield collector, f"http://127.0.0.1:{thread.port}/v1/traces"
    thread.stop()


def said(span: Span) -> dict[str, Any]:
    return {
        one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes
    }


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_and_its_tries_are_one_trace(
    stream: bool, tmp_path: Path, collector: tuple[Collector, str]
) -> None:
    """It goes on in the server that answers; nothing of what was asked or answered is told."""
    kept, url = collector
    (tmp_path / "key").write_text(SECRET)
    with ExitStack() as stack:
        scene = Scene(tmp_path, stack)
        keys = {"shop": Key(file=str(tmp_path / "key"))}
        gateway = scene.gateway(traces=url, features=["search"], keys=keys)
        scene.edge.behaviour = "error"
        headers = {**CAME_WITH, "Authorization": f"Bearer {SECRET}", "X-Feature": "search"}
        messages = [{"role": "user", "content": PROMPT}]
        status, _, answer = ask(gateway, headers=headers, messages=messages, stream=stream)
        assert status == 200 and b"two" in answer
    by_name = {span.name: span for span in kept.spans()}
    assert by_name.keys() == {"chat chat", "try edge", "try cloud"}
    request, edge, cloud = (by_name[name] for name in ("chat chat", "try edge", "try cloud"))
    assert {span.trace_id.hex() for span in by_name.values()} == {TRACE}
    assert request.parent_span_id.hex() == PARENT
    assert {edge.parent_span_id, cloud.parent_span_id} == {request.span_id}
    assert scene.cloud.traces == [f"00-{TRACE}-{cloud.span_id.hex()}-01"]
    assert request.kind == Span.SPAN_KIND_SERVER and cloud.kind == Span.SPAN_KIND_CLIENT
    found = said(request)
    assert found["gen_ai.operation.name"] == "chat" and found["gen_ai.request.model"] == "chat"
    assert (found["quantgate.feature"], found["quantgate.key"]) == ("search", "shop")
    assert (found["quantgate.tier"], found["http.response.status_code"]) == ("cloud", 200)
    assert said(edge)["quantgate.end"] == "failed" and edge.status.code == Status.STATUS_CODE_ERROR
    found = said(cloud)
    assert found["gen_ai.response.model"] == "its-own@sha256:c10ud"
    assert found["quantgate.end"] == "answered"
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (5, 3)
    first_s = found.get("gen_ai.response.time_to_first_chunk")
    lasted_s = (cloud.end_time_unix_nano - cloud.start_time_unix_nano) / 1e9
    assert 0 < first_s < lasted_s if stream else first_s is None
    assert cloud.start_time_unix_nano >= edge.end_time_unix_nano
    assert request.end_time_unix_nano >= cloud.end_time_unix_nano
    everything = b"".join(kept.bodies)
    assert not [text for text in (PROMPT, SECRET, "two") if text.encode() in everything]


def test_a_kept_answer_has_no_try(tmp_path: Path, collector: tuple[Collector, str]) -> None:
    kept, url = collector
    with ExitStack() as stack:
        gateway = Scene(tmp_path, stack).gateway(traces=url, cache=Cache())
        for _ in range(2):
            assert ask(gateway, temperature=0)[0] == 200
    names = sorted(span.name for span in kept.spans())
    assert names == ["chat chat", "chat chat", "try edge"]
    places = {said(span)["quantgate.tier"] for span in kept.spans() if span.name == "chat chat"}
    assert places == {"edge", "cache"}


def test_without_a_collector_a_clients_trace_goes_on(tmp_path: Path) -> None:
    with ExitStack() as stack:
        scene = Scene(tmp_path, stack)
        gateway = scene.gateway()
        assert ask(gateway, headers=CAME_WITH)[0] == ask(gateway)[0] == 200
        assert ask(gateway, headers={"traceparent": "no such thing"})[0] == 200
    assert scene.edge.traces == [CAME_WITH["traceparent"], None, None]


def test_a_collector_that_is_gone_keeps_nobody_waiting(tmp_path: Path) -> None:
    gone = Thread(FastAPI())
    gone.stop()
    with ExitStack() as stack:
        gateway = Scene(tmp_path, stack).gateway(traces=f"http://127.0.0.1:{gone.port}/v1/traces")
        start = time.monotonic()
        assert [ask(gateway)[0] for _ in range(5)] == [200] * 5
        assert time.monotonic() - start < 5
        start = time.monotonic()
    assert time.monotonic() - start < 15
