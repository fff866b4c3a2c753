"""The gateway over HTTP: the OpenAI API, and what operators look at."""

from __future__ import annotations

import asyncio
import datetime
from typing import Annotated, Any

import aiohttp
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from pipeline import __version__
from pipeline.gateway.asked import CHAT, COMPLETIONS, Read
from pipeline.gateway.clients import Client
from pipeline.gateway.gateway import Gateway
from pipeline.gateway.ledger import Ledger
from pipeline.gateway.tier import Tier
from pipeline.serving import problems
from pipeline.serving.guard import Guard, unless_hung_up

BODY_BYTES = 8 << 20  # of a request; the server has its own, lower bound
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
SCRAPE_S = 5.0
Days = Annotated[int, Query(ge=1, le=3660)]
USAGE_DAYS = 30
# For openapi.json: a body is read by hand, since it goes on to a server as it came.
ASKED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": Read.model_json_schema()}},
    },
}
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
PLAIN: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}


def make(gateway: Gateway, ledger: Ledger) -> FastAPI:
    app = FastAPI(
        title="quantgate gateway",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=problems.RESPONSES,
    )
    problems.answer_with(app)
    app.add_middleware(Guard, key=None, largest=BODY_BYTES, answered=gateway.responded)

    async def answer(path: str, request: Request) -> Response:
        client = _client(gateway, request)
        asked = await gateway.asked(path, request.headers, client, await request.body())
        flight = await gateway.flight(asked)

        async def begun() -> Response:
            try:
                await flight.ready()
            except BaseException:
                flight.leave()
                raise
            if asked.stream:
                return StreamingResponse(flight.read(), flight.status, flight.headers)
            body = b"".join([part async for part in flight.read()])
            return Response(body, flight.status, flight.headers)

        return await unless_hung_up(request, begun())

    @app.post(f"/v1/{CHAT}", openapi_extra=ASKED, responses=STREAMED)
    async def chat(request: Request) -> Response:
        return await answer(CHAT, request)

    @app.post(f"/v1/{COMPLETIONS}", openapi_extra=ASKED, responses=STREAMED)
    async def complete(request: Request) -> Response:
        return await answer(COMPLETIONS, request)

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        _client(gateway, request)
        return {"object": "list", "data": [_model(gateway, name) for name in gateway.models]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> dict[str, Any]:
        _client(gateway, request)
        if name not in gateway.models:
            raise problems.no_model(name, ", ".join(gateway.models))
        return _model(gateway, name)

    @app.get("/live")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/health")
    async def health() -> Response:
        tiers = {f"{tier.model}/{tier.name}": _state(tier) for tier in gateway.tiers}
        body = {"status": "ready" if gateway.ready else "not ready", "tiers": tiers}
        return JSONResponse(body, 200 if gateway.ready else 503)

    @app.get("/metrics", responses=PLAIN)
    async def scraped() -> Response:
        return Response(await gateway.scraped(), media_type=PROMETHEUS)

    @app.get("/metrics/{model}/{name}", responses=PLAIN)
    async def of_tier(model: str, name: str) -> Response:
        return await _own_metrics(gateway, model, name)

    @app.get("/usage")
    async def usage(request: Request, days: Days = USAGE_DAYS) -> dict[str, Any]:
        client = _client(gateway, request)
        sees_all = client.key is None or client.key.admin
        rows = [
            row
            for row in await asyncio.to_thread(ledger.usage, days)
            if sees_all or row.key == client.name
        ]
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return {"at": at, "days": days, "currency": gateway.deploy.currency, "usage": rows}

    return app


def _client(gateway: Gateway, request: Request) -> Client:
    """Raises Problem for a key that nobody has."""
    return gateway.clients.who(request.headers.get("authorization", ""))


def _model(gateway: Gateway, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": gateway.started_at,
        "owned_by": "quantgate",
        "digests": {
            tier.name: f"sha256:{tier.approved.digest}" for tier in gateway.models[name].tiers
        },
    }


def _state(tier: Tier) -> str:
    if not tier.is_approved:
        return "not approved"
    return "ready" if tier.unready is None else "not ready"


async def _own_metrics(gateway: Gateway, model: str, name: str) -> Response:
    """What the tier's own server counts."""
    found = [tier for tier in gateway.tiers if (tier.model, tier.name) == (model, name)]
    if not found:
        raise problems.Problem(404, "invalid_request_error", "There is no such tier.")
    timeout = aiohttp.ClientTimeout(total=SCRAPE_S)
    where = f"{found[0].url.removesuffix('/v1')}/metrics"
    try:
        async with gateway.session.get(where, timeout=timeout, allow_redirects=False) as answer:
            return Response(await answer.read(), answer.status, media_type=PROMETHEUS)
    except (aiohttp.ClientError, OSError):
        raise problems.unready() from None
