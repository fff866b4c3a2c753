"""What a client asks, as far as the gateway reads it; the rest is the server's business."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from pipeline.gateway import deploy_file
from pipeline.gateway.clients import Client
from pipeline.gateway.routing import Need
from pipeline.serving import problems

TARGET, FEATURE = "x-latency-target-ms", "x-feature"
TRACE = ("traceparent", "tracestate")  # https://www.w3.org/TR/trace-context/
OTHER = "other"
CHAT, COMPLETIONS = "chat/completions", "completions"
MOST_TARGET_MS = 1e9
LARGEST = 2**31 - 1


class _Options(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: bool | None = None


# In place, since openapi.json has no room for definitions within a definition.
OPTIONS = {"anyOf": [_Options.model_json_schema(), {"type": "null"}]}


class Read(BaseModel):
    """Of a request's body; what else it has is the server's to judge."""

    model_config = ConfigDict(strict=True, extra="ignore")
    model: str
    stream: bool | None = None
    stream_options: Annotated[_Options | None, WithJsonSchema(OPTIONS)] = None
    max_tokens: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    temperature: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Asked:
    """One request. `path`: below /v1; `arrived`: by time.monotonic; `request`: the body with
    nothing changed but the bounds of the client's key; `trace`: the headers of a distributed
    trace, which go on to the server."""

    path: str
    model: str
    request: Mapping[str, Any]
    client: Client
    feature: str
    need: Need
    stream: bool
    wants_usage: bool
    trace: Mapping[str, str]
    arrived: float = field(default_factory=monotonic)
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def spent_ms(self) -> float:
        return 1000 * (monotonic() - self.arrived)

    def body(self, model: str) -> bytes:
        """For a server that has the model under this name. A stream is asked for its usage too,
        since it is counted here."""
        request = dict(self.request) | {"model": model}
        if self.stream:
            options = request.get("stream_options") or {}
            request["stream_options"] = {**options, "include_usage": True}
        return json.dumps(request).encode()


def model_of(body: bytes) -> tuple[dict[str, Any], str]:
    """The request, and whom it asks. Raises Problem."""
    try:
        request = json.loads(body)
        json.dumps(request, allow_nan=False)  # as it goes on to a server
    except (ValueError, RecursionError):
        raise problems.bad("The body is not JSON, or nested too deeply.") from None
    if not isinstance(request, dict):
        raise problems.bad("The body is no JSON object.")
    return request, _read(request).model


def make(
    path: str,
    request: Mapping[str, Any],
    size: int,
    headers: Mapping[str, str],
    model: deploy_file.Model,
    features: list[str],
    client: Client,
) -> Asked:
    """`size`: of the body in bytes. Raises Problem."""
    read = _read(request)
    feature = headers.get(FEATURE, OTHER)
    most = read.max_completion_tokens or read.max_tokens
    need = Need(
        target_ms=_target(headers.get(TARGET)) or model.latency_target_ms,
        tokens=most or model.usual_tokens,
        prompt_bytes=size,
        most_tokens=most or LARGEST,
    )
    return Asked(
        path=path,
        model=read.model,
        request=request,
        client=client,
        feature=feature if feature in features else OTHER,
        need=need,
        stream=bool(read.stream),
        wants_usage=bool(read.stream_options and read.stream_options.include_usage),
        trace={name: headers[name] for name in TRACE if name in headers},
    )


def _read(request: Mapping[str, Any]) -> Read:
    try:
        return Read.model_validate(request)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise problems.bad(f"{place}: {first['msg']}", place) from None


def _target(given: str | None) -> float | None:
    if given is None:
        return None
    try:
        target = float(given)
    except ValueError:
        target = math.nan
    if not 0 < target <= MOST_TARGET_MS:
        raise problems.bad(
            f"{TARGET}: expected a number of milliseconds above 0.", TARGET, "invalid_header"
        )
    return target
