"""An answer as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html),
each a chunk of the OpenAI API, the last one [DONE]."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import aiohttp

from pipeline.gateway import escalation
from pipeline.gateway.attempt import Errand, Try
from pipeline.gateway.flight import Flight

STALL_S = 30.0  # the longest silence within a stream
DONE = b"data: [DONE]\n\n"
HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


async def relayed(
    done: Try, errand: Errand, reply: aiohttp.ClientResponse, patience: asyncio.Timeout
) -> None:
    """What comes before the first token waits for it: until then it may still fail unseen."""
    flight, held = errand.flight, list[bytes]()
    async for chunk in _chunks(reply):
        if chunk is None:
            _ended(done, errand, held)
            return
        if chunk.get("error"):
            done.failed(flight.begun, "an error within the stream")
            return
        line = _line(done, errand, chunk)
        if flight.begun:
            flight.add(line)
        else:
            held.append(line)
            if done.first_at is not None:
                _begin(errand, held)
        if flight.begun:
            patience.reschedule(asyncio.get_running_loop().time() + STALL_S)
    done.failed(flight.begun, "it ended without [DONE]")


def end_with_error(flight: Flight, message: str) -> None:
    """In a stream that has begun an error is an event, the last but [DONE]."""
    detail = {"message": message, "type": "server_error", "param": None, "code": "broke_off"}
    flight.add(_event({"error": detail}))
    flight.add(DONE)


def _line(done: Try, errand: Errand, chunk: dict[str, Any]) -> bytes:
    """As the client is to see it; empty for the usage, which only the gateway asked for."""
    choices = escalation.choices_of(chunk)
    if any(escalation.says_something(choice) for choice in choices):
        done.completion_tokens += 1
        errand.tier.silence.broken()
        done.last_at = monotonic()
        done.first_at = done.first_at or done.last_at
    done.counted(chunk)
    if not errand.asked.wants_usage:
        if not choices:
            return b""
        chunk.pop("usage", None)
    chunk["model"] = errand.asked.model
    return _event(chunk)


def _ended(done: Try, errand: Errand, held: list[bytes]) -> None:
    if not errand.flight.begun and "empty" in errand.rules:
        done.end, done.rule = "not enough", "empty"
        done.headers, done.body = HEADERS, b"".join([*held, DONE])
        return
    if not errand.flight.begun:
        _begin(errand, held)
    errand.flight.add(DONE)
    done.end = "answered"


def _begin(errand: Errand, held: list[bytes]) -> None:
    errand.tier.breaker.succeeded()
    errand.flight.begin(200, HEADERS | errand.headers)
    for line in held:
        errand.flight.add(line)


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


async def _chunks(reply: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any] | None]:
    """The JSON of each event; None for [DONE]. Raises ValueError for what is none."""
    rest = b""
    async for part in reply.content.iter_any():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if data == line.strip() or not data:  # a comment, another field, or nothing
                continue
            value = None if data == b"[DONE]" else json.loads(data)
            if value is not None and not isinstance(value, dict):
                raise ValueError(f"an event that is no object: {type(value).__name__}")
            yield value
