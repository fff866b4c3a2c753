"""What went wrong, in OpenAI's shape: {"error": {message, type, param, code}} and its status
(https://platform.openai.com/docs/guides/error-codes)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from pipeline.serving.backend import Busy
from pipeline.serving.keywords import Unsupported
from pipeline.serving.wire import ENGINE_FAILED, FAILED, Refusal

RETRY_AFTER_LOADING_S = 5
NOT_HERE = "this server does not support it"
# Of pydantic's errors: what the API knows and this server cannot do, such as n: 2, or tools.
UNSUPPORTED = ("literal_error", "too_long")
NOT_JSON = "Content-Type: expected application/json, which says what the body is."


class ErrorDetail(BaseModel):
    """`type` and `code` are OpenAI's."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


# What every route may answer with, for openapi.json.
RESPONSES: dict[int | str, dict[str, Any]] = {kind: {"model": ErrorBody} for kind in ("4XX", "5XX")}


class Problem(Exception):
    """`kind` is OpenAI's `type`."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self._headers = status, headers
        detail = ErrorDetail(message=message, type=kind, param=param, code=code)
        self.body = ErrorBody(error=detail).model_dump()

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self._headers)


def answer_with(app: FastAPI) -> None:
    """Whatever its routes raise is answered in OpenAI's shape."""
    app.add_exception_handler(Problem, _said)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


async def _said(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return invalid(error).response()


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, Problem):  # of the guard, raised while the body was read
        return error.__cause__.response()
    kind, detail = "invalid_request_error", str(error.detail)
    return Problem(error.status_code, kind, detail, headers=error.headers).response()


def bad(message: str, param: str | None = None, code: str | None = None) -> Problem:
    return Problem(400, "invalid_request_error", message, param, code)


def refused(refusal: Refusal) -> Problem:
    if refusal.code == ENGINE_FAILED:
        return Problem(500, "server_error", refusal.message, code=refusal.code)
    return bad(refusal.message, code=refusal.code)


def no_schema(error: Unsupported) -> Problem:
    """By its code a gateway knows that another engine may take it."""
    message = f"Invalid schema for response_format: {error}."
    return bad(message, "response_format", "unsupported_value")


def no_key() -> Problem:
    return Problem(
        401,
        "invalid_request_error",
        "Incorrect API key provided. Send it as: Authorization: Bearer KEY",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def no_model(found: str, served: str) -> Problem:
    return Problem(
        404,
        "invalid_request_error",
        f"The model {found!r} does not exist; this server has {served!r}.",
        "model",
        "model_not_found",
    )


def busy(error: Busy) -> Problem:
    return Problem(
        429,
        "rate_limit_error",
        f"All places and the queue are taken. Try again in {error.retry_after_s} s.",
        code="queue_full",
        headers={"Retry-After": str(error.retry_after_s)},
    )


def unready() -> Problem:
    return Problem(
        503,
        "service_unavailable_error",
        "The engine is not ready: it is loading, or has ended.",
        code="not_ready",
        headers={"Retry-After": str(RETRY_AFTER_LOADING_S)},
    )


def unknown() -> Problem:
    return Problem(500, "server_error", FAILED)


def invalid(error: RequestValidationError) -> Problem:
    """The first thing that is wrong; of what was found numbers alone, since a text may be long, or
    a secret."""
    first: dict[str, Any] = dict(error.errors()[0])
    if isinstance(first.get("input"), bytes):  # FastAPI reads as JSON only what is called so
        return Problem(415, "invalid_request_error", NOT_JSON)
    if first["type"] == "json_invalid":
        return bad(f"The body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}.")
    parts = [str(part) for part in first["loc"] if part != "body"]
    alike = [one for one in error.errors() if one["loc"][:2] == first["loc"][:2]]
    place = ".".join(parts if len(alike) == 1 else parts[:1])  # of a union, each form complains
    if first["type"] == "extra_forbidden":
        return bad(f"Unrecognized request argument supplied: {place}", place, "unknown_parameter")
    nothing_else = first.get("ctx", {}).get("max_length") == 0
    said = NOT_HERE if nothing_else else first["msg"].removeprefix("Value error, ")
    found = first.get("input")
    seen = f" (found {json.dumps(found)})" if isinstance(found, (int, float)) else ""
    code = "unsupported_value" if first["type"] in UNSUPPORTED else None
    return bad(f"{place or 'The body'}: {said}{seen}", place or None, code)


def too_large(most: int) -> Problem:
    return Problem(413, "invalid_request_error", f"The body is over {most} bytes.")
