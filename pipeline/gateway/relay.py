"""Sends a request to a server, and its answer on. Nothing of an answer goes on before its first
token, so that until then another tier can be asked."""

from __future__ import annotations

import asyncio
import json

import aiohttp

from pipeline.gateway import escalation, stream
from pipeline.gateway.attempt import JSON, Errand, Try

BUSY, TOO_LONG = 429, "context_length_exceeded"
# Of statuses that are not the client's doing: the server does not know its model, or the key.
OURS = (401, 403, 404, 405, 408)


async def ask(session: aiohttp.ClientSession, errand: Errand) -> Try:
    """How it ended; whatever the server does, this raises nothing but CancelledError."""
    done, tier, flight = Try(), errand.tier, errand.flight
    headers = {**JSON, **errand.asked.trace, "X-Request-Id": errand.asked.id}
    if tier.key:
        headers["Authorization"] = f"Bearer {tier.key}"
    where, body = f"{tier.url}/{errand.asked.path}", errand.asked.body(tier.asked_as)
    try:
        async with (
            asyncio.timeout(errand.patience_s) as patience,
            session.post(where, data=body, headers=headers) as reply,
        ):
            if reply.status != 200:
                await _refused(done, reply)
            elif errand.asked.stream:
                await stream.relayed(done, errand, reply, patience)
            else:
                _whole(done, errand, await reply.read())
    except TimeoutError:
        done.end = "broke off" if flight.begun else "late"
        done.why = "silence" if flight.begun else f"no answer in {errand.patience_s:.2f} s"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        done.end = "broke off" if flight.begun else "failed"
        done.why = type(error).__name__
    if done.end == "broke off":
        stream.end_with_error(flight, f"The server broke off ({done.why}).")
    return done


async def _refused(done: Try, reply: aiohttp.ClientResponse) -> None:
    done.status, done.why, body = reply.status, f"status {reply.status}", await reply.read()
    if reply.status == BUSY:
        done.end = "busy"
        after = reply.headers.get("Retry-After", "")
        done.retry_after_s = float(after) if after.isdecimal() else None
    elif _code(body) == TOO_LONG:
        done.end, done.body = "too long", body
    elif 400 <= reply.status < 500 and reply.status not in OURS:
        done.end, done.body = "clients", body


def _code(body: bytes) -> str | None:
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return None


def _whole(done: Try, errand: Errand, body: bytes) -> None:
    answer = json.loads(body)
    if not isinstance(answer, dict) or not escalation.choices_of(answer):
        done.why = "no answer of the OpenAI API"
        return
    done.counted(answer)
    answer["model"] = errand.asked.model
    done.body = json.dumps(answer, ensure_ascii=False).encode()
    done.rule = escalation.broken(errand.rules, errand.asked.request, answer)
    done.end = "not enough" if done.rule else "answered"
    if done.rule is None:
        done.give(errand)
