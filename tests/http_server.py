"""An OpenAI-compatible server with known delays, for the tests of the load generator. What it does
with a request depends on the request alone, on the first id of its prompt, so that warm-up requests
disturb nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Behaviour:
    """`slots` requests are served at once, the others wait. The sets and `slow_s` (a longer time to
    the first token) are by first prompt id."""

    first_s: float = 0.2
    token_s: float = 0.04
    slots: int = 1000
    slow_s: dict[int, float] = field(default_factory=dict)
    refused: frozenset[int] = frozenset()
    broken: frozenset[int] = frozenset()
    short: frozenset[int] = frozenset()
    usage: bool = True
    text_only: bool = False
    models: tuple[str, ...] = ("fake",)


@dataclass
class Arrived:
    at_s: float
    body: dict[str, Any]
    authorization: str | None


@dataclass
class Running:
    url: str
    arrived: list[Arrived]


@contextlib.contextmanager
def running(behaviour: Behaviour) -> Iterator[Running]:
    """The server in a thread of its own, on a free port."""
    server = _Server(behaviour)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    server.ready.wait(10)
    try:
        yield Running(f"http://127.0.0.1:{server.port}/v1", server.arrived)
    finally:
        server.loop.call_soon_threadsafe(server.done.set)
        thread.join(10)


class _Server:
    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.arrived: list[Arrived] = []
        self.ready = threading.Event()
        self.port = 0

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop, self.done = asyncio.get_running_loop(), asyncio.Event()
        self.free = asyncio.Semaphore(self.behaviour.slots)
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._complete)
        runner = web.AppRunner(app, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self.ready.set()
        await self.done.wait()
        await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self.behaviour.models]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.arrived.append(
            Arrived(time.perf_counter(), body, request.headers.get("Authorization"))
        )
        if self.behaviour.text_only and not isinstance(body["prompt"], str):
            return web.json_response({"error": "prompt is not a string"}, status=400)
        number = body["prompt"][0] if isinstance(body["prompt"], list) else -1
        if number in self.behaviour.refused:
            return web.Response(status=500)
        async with self.free:
            return await self._stream(request, body, number)

    async def _stream(
        self, request: web.Request, body: dict[str, Any], number: int
    ) -> web.StreamResponse:
        begun = time.perf_counter() + self.behaviour.slow_s.get(number, self.behaviour.first_s)
        count = body["max_tokens"] - (1 if number in self.behaviour.short else 0)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for token in range(count):
            await asyncio.sleep(begun + token * self.behaviour.token_s - time.perf_counter())
            await _event(answer, {"choices": [{"index": 0, "text": "x "}]})
            if number in self.behaviour.broken and token == 1 and request.transport:
                request.transport.abort()
                return answer
        if self.behaviour.usage and body["stream_options"]["include_usage"]:
            await _event(
                answer,
                {
                    "choices": [],
                    "usage": {"prompt_tokens": len(body["prompt"]), "completion_tokens": count},
                },
            )
        await answer.write(b"data: [DONE]\n\n")
        return answer


async def _event(answer: web.StreamResponse, data: dict[str, Any]) -> None:
    await answer.write(f"data: {json.dumps(data)}\n\n".encode())
