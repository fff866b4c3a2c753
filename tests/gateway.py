"""A gateway over stand-in servers, for tests without an engine: HTTP is real on both sides, and
what a server does can be changed while it runs.

python -m tests.gateway server PORT OPTIONS    one such server, in a process of its own
python -m tests.gateway gateway PORT OPTIONS   a gateway, likewise: `deploy` as deploy.yaml has it,
and by tier `digest` and `promise`, its measured points"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse

from pipeline.engines.server import Served
from pipeline.gateway import command, watch
from pipeline.gateway.approved import Approved
from pipeline.gateway.deploy_file import Deploy
from pipeline.gateway.promise import Point, Promise
from pipeline.gateway.tier import Tier
from pipeline.recipe import Serve
from pipeline.release.signoff.standing import Standing
from pipeline.serving import listening
from tests.serving import until

SERVE = Serve(max_model_len=64, max_num_seqs=8, max_num_batched_tokens=64, kv_cache_gib=1)
WORDS = ["one ", "two ", "three"]
LOOK_S = 0.02  # between looks at a server that is not ready, while a gateway starts
REFUSALS: dict[str, tuple[int, Any, str]] = {
    "busy": (429, "queue_full", "full"),
    "loading": (503, "not_ready", "loading"),
    "long": (400, "context_length_exceeded", "long"),
    "vllm-long": (400, 400, "This model's maximum context length is 64 tokens."),
    "bad": (400, "x", "bad"),
}


@dataclass
class Server:
    """`behaviour`: ok, error, hang, busy, loading; stall or cut (in the middle of a stream); long
    (too long for it; vllm-long: as vLLM says it), bad (the client's fault), length (cut at
    max_tokens), moved (to elsewhere), raw (`text` as it is). It is busy to more than `places` at
    once. `delay_s`: until the first token, once
    `delays_s`, one a request, are used up. `digest`: what it shows. `asked`, `keys`, `traces`: what
    came with each request: body, authorization, traceparent."""

    digest: str
    behaviour: str = "ok"
    places: int = 1000
    delay_s: float = 0.0
    delays_s: list[float] = field(default_factory=list)
    text: str | None = None
    breaks_at: int = 2  # of a stream's events
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    traces: list[str | None] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        async def models() -> Response:
            if self.behaviour in ("error", "hang"):
                return await self._ill()
            return JSONResponse({"data": [{"id": "its-own", "digest": f"sha256:{self.digest}"}]})

        @app.get("/health")
        async def health() -> Response:
            return Response(status_code=503 if self.behaviour == "loading" else 200)

        @app.get("/metrics")
        async def metrics() -> Response:
            return Response("its_own_total 7\n", media_type="text/plain")

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            return await self._answer(request, chat=True)

        @app.post("/v1/completions")
        async def complete(request: Request) -> Response:
            return await self._answer(request, chat=False)

        return app

    async def _ill(self) -> Response:
        if self.behaviour == "hang":
            await asyncio.sleep(3600)
        return JSONResponse({"error": {"message": "broken", "code": None}}, 500)

    async def _answer(self, request: Request, chat: bool) -> Response:
        body = await request.json()
        self.asked.append(body)
        self.keys.append(request.headers.get("authorization"))
        self.traces.append(request.headers.get("traceparent"))
        if body["model"] != f"its-own@sha256:{self.digest}":
            return JSONResponse({"error": {"message": "no", "code": "model_not_found"}}, 404)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._behave(body, chat)
        finally:
            self.at_once -= 1

    async def _behave(self, body: dict[str, Any], chat: bool) -> Response:
        full = self.at_once > self.places
        if not full:
            await asyncio.sleep(self.delays_s.pop(0) if self.delays_s else self.delay_s)
        if self.behaviour in ("error", "hang"):
            return await self._ill()
        if full or self.behaviour in REFUSALS:
            status, code, message = REFUSALS["busy" if full else self.behaviour]
            detail = {"error": {"message": message, "code": code}}
            return JSONResponse(detail, status, {"Retry-After": "1" if full else "7"})
        if self.behaviour == "moved":
            return RedirectResponse("/elsewhere", 307)
        if self.behaviour == "raw":
            return Response(self.text, media_type="application/json")
        words = [self.text] if self.text is not None else WORDS
        if body.get("stream"):
            return StreamingResponse(self._events(words, chat), media_type="text/event-stream")
        text = "".join(words)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if self.behaviour == "length":
            choice["finish_reason"] = "length"
        usage = {"prompt_tokens": 5, "completion_tokens": len(words)}
        return JSONResponse({"model": body["model"], "choices": [choice], "usage": usage})

    async def _events(self, words: list[str], chat: bool) -> AsyncIterator[str]:
        for number, word in enumerate(["", *words]):  # the first as vLLM's: a role, and no text
            if self.behaviour == "stall" and number == self.breaks_at:
                await asyncio.sleep(3600)
            if self.behaviour == "cut" and number == self.breaks_at:
                return
            part = {"delta": {"content": word}} if chat else {"text": word}
            yield _event({"model": "x", "choices": [{"index": 0, **part, "finish_reason": None}]})
            await asyncio.sleep(0)
        usage = {"prompt_tokens": 5, "completion_tokens": len(words)}
        yield _event({"model": "x", "choices": [], "usage": usage})
        yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


class Thread:
    """uvicorn in a thread of its own; can be killed and started again on the same port."""

    def __init__(self, app: FastAPI, port: int = 0) -> None:
        self._app, self.port = app, port
        self.start()

    def start(self) -> None:
        config = uvicorn.Config(
            self._app,
            port=self.port,
            log_level="critical",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until(lambda: self._server.started)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def end(self) -> None:
        """Tells it to stop; does not wait until it has."""
        self._server.force_exit = self._server.should_exit = True

    def stop(self) -> None:
        self.end()
        self._thread.join(10)


def approved(
    digest: str, promise: Promise | None = None, again: Callable[..., Standing] | None = None
) -> Approved:
    served = Served("openvino", Path("nowhere"), SERVE, "its-own", digest)
    stands = again or (lambda now: Standing("approved", []))
    return Approved("its-own", digest, served, promise, None, stands, stands)


def promised(ttft_ms: float, tpot_ms: float = 1.0) -> Promise:
    return Promise((Point(1, ttft_ms, tpot_ms), Point(8, 2 * ttft_ms, 2 * tpot_ms)), 16)


@dataclass
class Running:
    """`url` ends in /v1."""

    url: str
    port: int
    tiers: dict[str, Tier]


@contextlib.contextmanager
def running(deploy: Deploy, tiers: dict[str, list[Tier]]) -> Iterator[Running]:
    """A gateway in a thread, once each tier is ready."""
    made: list[uvicorn.Server] = []

    async def serve() -> None:
        async with command.opened(deploy, tiers) as app:
            made.append(uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning")))
            await made[0].serve()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    everyone = {tier.name: tier for of in tiers.values() for tier in of}
    try:
        with patch.object(watch, "WHILE_UNREADY_S", LOOK_S):
            thread.start()
            until(lambda: bool(made) and made[0].started)
            until(lambda: all(tier.unready is None for tier in everyone.values()))
        port = made[0].servers[0].sockets[0].getsockname()[1]
        yield Running(f"http://127.0.0.1:{port}/v1", port, everyone)
    finally:
        for server in made:
            server.should_exit = True
        thread.join(30)


def deployed(options: dict[str, Any]) -> tuple[Deploy, dict[str, list[Tier]]]:
    """What a process is told on its command line."""
    deploy = Deploy.model_validate(options["deploy"])
    tiers: dict[str, list[Tier]] = {}
    for model, settings in deploy.models.items():
        for name, tier in settings.tiers.items():
            points = tuple(Point(*point) for point in options["promise"].get(name, []))
            promise = Promise(points, 128) if points else None
            one = Tier(model, name, tier, approved(options["digest"][name], promise))
            tiers.setdefault(model, []).append(one)
    return deploy, tiers


async def main(kind: str, port: int, options: dict[str, Any]) -> None:
    if kind == "server":
        config = uvicorn.Config(Server(**options).app(), port=port, log_level="critical")
        await uvicorn.Server(config).serve()
        return
    deploy, tiers = deployed(options)
    async with command.opened(deploy, tiers) as app:
        await listening.server(app, "127.0.0.1", port).serve()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])))
