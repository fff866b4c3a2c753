"""Before and behind every request: who may ask, how much, what is counted, and what is said of a
failure that nobody foresaw."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from hmac import compare_digest

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.runtime import crash
from pipeline.serving import problems
from pipeline.serving.problems import Problem

HUNG_UP = 499  # of nginx: the client closed the request


class Guard:
    """ASGI middleware. `key`: what is asked of clients under /v1; `largest`: of a body, in bytes;
    `answered` is told the route and the status of each request."""

    def __init__(
        self, app: ASGIApp, key: str | None, largest: int, answered: Callable[[str, int], None]
    ) -> None:
        self._app, self._key, self._largest, self._answered = app, key, largest, answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            self._admit(scope)
            await self._app(scope, self._limited(receive), noted)
        except Problem as problem:
            await problem.response()(scope, receive, noted)
        except Exception as error:
            print(f"quantgate: a request failed: {crash.place(error)}", file=sys.stderr)
            if not status:  # else the answer has begun, and breaks off
                await problems.unknown().response()(scope, receive, noted)
        finally:
            self._answered(_endpoint(scope), status or HUNG_UP)

    def _admit(self, scope: Scope) -> None:
        """Raises Problem."""
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._largest:
            raise problems.too_large(self._largest)
        if self._key is None or not scope["path"].startswith("/v1"):
            return
        kind, _, shown = headers.get("authorization", "").partition(" ")
        known = compare_digest(shown.strip().encode(), self._key.encode())
        if kind.lower() != "bearer" or not known:
            raise problems.no_key()

    def _limited(self, receive: Receive) -> Receive:
        """A body that does not say its length is counted as it comes."""
        taken = 0

        async def counting() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._largest:
                raise problems.too_large(self._largest)
            return message

        return counting


def _endpoint(scope: Scope) -> str:
    """Its route, so that made-up paths are no labels."""
    return str(getattr(scope.get("route"), "path", "other"))


async def unless_hung_up(request: Request, work: Awaitable[Response]) -> Response:
    """The work's response; it is given up as soon as the client has gone."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else Response(status_code=HUNG_UP)
    finally:
        for task in (working, gone):
            task.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
