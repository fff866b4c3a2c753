"""The OpenAI API over a backend: /v1/completions, /v1/chat/completions, /v1/models, /health and
/metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from pipeline import __version__
from pipeline.engines.server import pinned
from pipeline.serving import problems, schemas
from pipeline.serving.answers import Chat, Completion, Reply, Shape
from pipeline.serving.backend import Backend, Busy, Unready
from pipeline.serving.guard import Guard, unless_hung_up
from pipeline.serving.keywords import Unsupported
from pipeline.serving.metrics import Metrics, Timer
from pipeline.serving.problems import Problem
from pipeline.serving.requests import ChatRequest, CompletionRequest, OfSchema
from pipeline.serving.wire import Answer, Token

# Of a request at most, and more for each token that fits: what may wait is held in memory.
BODY_BYTES, TOKEN_BYTES = 1 << 20, 64
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
Answers = AsyncGenerator[Answer, None]


def make(backend: Backend, key: str | None) -> FastAPI:
    """`key`: what clients must send as their bearer token to /v1."""
    metrics = Metrics(backend)
    app = FastAPI(
        title="quantgate",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        responses=problems.RESPONSES,
    )
    problems.answer_with(app)
    largest = BODY_BYTES + TOKEN_BYTES * backend.job.serve.max_model_len
    app.add_middleware(Guard, key=key, largest=largest, answered=metrics.answered)

    @app.get("/health")
    async def health() -> Response:
        if not backend.ready:
            raise problems.unready()
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
    async def scraped() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(backend)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        _require_model(backend, name)
        return _model(backend)

    @app.post("/v1/completions", responses=STREAMED)
    async def complete(asked: CompletionRequest, request: Request) -> Response:
        return await _reply(backend, metrics, asked, Completion(), request)

    @app.post("/v1/chat/completions", responses=STREAMED)
    async def chat(asked: ChatRequest, request: Request) -> Response:
        return await _reply(backend, metrics, asked, Chat(), request)

    return app


def _model(backend: Backend) -> dict[str, Any]:
    job = backend.job
    return {
        "id": job.name,
        "object": "model",
        "created": backend.started_at,
        "owned_by": "quantgate",
        "max_model_len": job.serve.max_model_len,
        "digest": f"sha256:{job.digest}",
    }


def _require_model(backend: Backend, name: str) -> None:
    if name not in (backend.job.name, pinned(backend.job.name, backend.job.digest)):
        raise problems.no_model(name, backend.job.name)


async def _require_schema(asked: CompletionRequest | ChatRequest) -> None:
    """Before others are in one batch with it; in a thread, since a large one takes a second."""
    if isinstance(asked.response_format, OfSchema):
        try:
            await asyncio.to_thread(schemas.check, asked.response_format.json_schema.schema_)
        except Unsupported as error:
            raise problems.no_schema(error) from None


async def _reply(
    backend: Backend,
    metrics: Metrics,
    asked: CompletionRequest | ChatRequest,
    shape: Shape,
    request: Request,
) -> Response:
    _require_model(backend, asked.model)
    await _require_schema(asked)
    answers = backend.stream(asked.question, asked.sampling, asked.stops)
    timer, reply = metrics.timer(), Reply(shape, backend.job.name)
    reply.usage.prompt_tokens = (await _first(answers)).prompt_tokens
    timer.prompt(reply.usage.prompt_tokens)
    if not asked.stream:
        return await unless_hung_up(request, _whole(reply, answers, timer))
    usage = bool(asked.stream_options and asked.stream_options.include_usage)
    return StreamingResponse(
        _events(reply, answers, timer, usage),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _first(answers: Answers) -> Answer:
    """Raises Problem for a request that is not taken, which no stream could say any more."""
    try:
        answer = await anext(answers)
    except Busy as error:
        raise problems.busy(error) from None
    except Unready:
        raise problems.unready() from None
    if answer.refusal:
        raise problems.refused(answer.refusal)
    return answer


async def _counted(reply: Reply, answers: Answers, timer: Timer) -> Answers:
    """The rest of the answers. Raises Problem if the engine fails."""
    async with contextlib.aclosing(answers):
        try:
            async for answer in answers:
                if answer.refusal:
                    raise problems.refused(answer.refusal)
                reply.usage.completion_tokens += answer.tokens
                if answer.tokens:
                    timer.output(answer.tokens)
                yield answer
        except Unready:
            raise problems.unready() from None
        finally:
            timer.end()


async def _whole(reply: Reply, answers: Answers, timer: Timer) -> Response:
    text, tokens, finish = "", list[Token](), "stop"
    async for answer in _counted(reply, answers, timer):
        text += answer.text
        tokens += answer.each
        finish = answer.finish or finish
    return JSONResponse(reply.whole(text, tokens, finish))


async def _events(reply: Reply, answers: Answers, timer: Timer, usage: bool) -> AsyncIterator[str]:
    """Server-sent events. What fails once they have begun is an event too, the last but [DONE]."""
    first = True
    async with contextlib.aclosing(_counted(reply, answers, timer)) as counted:
        try:
            async for answer in counted:
                if answer.text or answer.each or answer.finish or first:
                    yield _event(reply.chunk(answer.text, answer.each, answer.finish, first))
                    first = False
            if usage:
                yield _event(reply.last())
        except Problem as problem:
            yield _event(problem.body)
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"
