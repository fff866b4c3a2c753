"""Sends a request to a server, and its answer on. Nothing of an answer goes on before its first
token, so that until then another tier can be asked."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp

from pipeline.gateway import escalation, stream, traces
from pipeline.gateway.attempt import JSON, Errand, Try

BUSY = 429
PASSING = (502, 503, 504)  # a server that is on its way
LONGEST_RETRY_S = 3600
LONGEST_COMPLAINT = 300  # characters
# What another server may take: a longer prompt, or arguments that this one does not know. vLLM says
# the first in words alone.
ELSEWHERE_CODES = ("context_length_exceeded", "unknown_parameter", "unsupported_value")
ELSEWHERE_WORDS = "maximum context length"
ELSEWHERE_STATUSES = (413, 422)
# Of statuses that are not the client's doing: the server does not know its model, or the key.
OURS = (401, 403, 404, 405, 408)


async def ask(session: aiohttp.ClientSession, errand: Errand, done: Try) -> None:
    """Fills in how it ended; whatever the server does, this raises nothing but CancelledError."""
    flight = errand.flight
    try:
        async with asyncio.timeout(errand.patience.seconds) as waiting:
            await _ask(session, errand, done, waiting)
    except aiohttp.ClientConnectionError as error:  # also in time, which some are a TimeoutError by
        done.failed(flight.begun, type(error).__name__)
        done.passing = not flight.begun
    except TimeoutError:
        silent = f"silent for {stream.STALL_S:g} s"
        none = f"no answer in {errand.patience.seconds:.2f} s"
        done.failed(flight.begun, silent if flight.begun else none)
        if not flight.begun:
            done.end = "late"
    except Exception as error:  # an answer of any form
        done.failed(flight.begun, type(error).__name__)
    if done.end == "broke off":
        stream.end_with_error(flight, f"The server broke off ({done.why}).")


async def _ask(
    session: aiohttp.ClientSession, errand: Errand, done: Try, waiting: asyncio.Timeout
) -> None:
    asked, tier = errand.asked, errand.tier
    headers = {**JSON, **traces.headers(), "X-Request-Id": asked.id}
    if tier.key:
        headers["Authorization"] = f"Bearer {tier.key}"
    where, body = f"{tier.url}/{asked.path}", asked.body(tier.asked_as)
    # what redirects to elsewhere would have an answer that nobody approved
    async with session.post(where, data=body, headers=headers, allow_redirects=False) as reply:
        if reply.status != 200:
            await _refused(done, reply)
        elif asked.stream:
            await stream.relayed(done, errand, reply, waiting)
        else:
            _whole(done, errand, await reply.read())


async def _refused(done: Try, reply: aiohttp.ClientResponse) -> None:
    status, done.end = reply.status, "failed"
    done.status, done.why, body = status, f"status {status}", await reply.read()
    if status == BUSY:
        done.end, done.passing = "busy", True
        after = reply.headers.get("Retry-After", "")
        done.retry_after_s = min(int(after[:9]), LONGEST_RETRY_S) if after.isdecimal() else None
    elif status >= 500:
        done.ill, done.passing = True, status in PASSING
    elif status >= 400 and status not in OURS:
        done.end = "not here" if _elsewhere(status, body) else "clients"
        done.body = body


def _elsewhere(status: int, body: bytes) -> bool:
    if status in ELSEWHERE_STATUSES:
        return True
    error = _error(body)
    return error.get("code") in ELSEWHERE_CODES or ELSEWHERE_WORDS in str(error.get("message"))


def complaint(body: bytes) -> str:
    """What a server said against a request, for the client that made it; empty if nothing."""
    return str(_error(body).get("message") or "")[:LONGEST_COMPLAINT]


def _error(body: bytes) -> dict[str, Any]:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return error if isinstance(error, dict) else {}


def _whole(done: Try, errand: Errand, body: bytes) -> None:
    answer = json.loads(body)
    if not isinstance(answer, dict) or not escalation.choices_of(answer):
        done.failed(begun=False, why="no answer of the OpenAI API")
        return
    done.counted(answer)
    answer["model"] = errand.asked.model
    done.body = json.dumps(answer, ensure_ascii=False).encode()
    done.rule = escalation.broken(errand.rules, errand.asked.request, answer)
    done.end = "not enough" if done.rule else "answered"
    if done.rule is None:
        done.give(errand)
