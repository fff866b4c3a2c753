"""What is deployed, for whom and within which bounds: deploy.yaml, parsed strictly once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from pipeline.errors import RecipeError
from pipeline.recipe.base import Few, LocalPath, Positive, Strict
from pipeline.recipe.parsing import parse, shown

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
RESERVED = {"cache", "none"}  # who answered, where no tier did
Escalation = Literal["empty", "cut", "schema"]
Seconds = Annotated[float, Field(gt=0, le=1e6)]
Milliseconds = Annotated[float, Field(gt=0, le=1e9)]
Money = Annotated[float, Field(ge=0, le=1e9)]


def _of_names(names: Iterable[str]) -> None:
    for name in names:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"found the name {name!r}, expected letters, digits and any of . _ - (64 at most)"
            )


def _http(example: str) -> AfterValidator:
    def checked(url: str) -> str:
        if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", url):
            raise ValueError(f"found {shown(url)}, expected {example}")
        return url.rstrip("/")

    return AfterValidator(checked)


def _cache_url(url: str) -> str:
    if url != "memory" and not re.match(r"(rediss?|unix)://", url):
        raise ValueError(f"found {shown(url)}, expected memory or redis://HOST:PORT/0")
    return url


class Listen(Strict):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080


class Cache(Strict):
    """Of whole answers. Redis bounds its own memory (`maxmemory`, `maxmemory-policy
    allkeys-lru`)."""

    url: Annotated[
        str,
        AfterValidator(_cache_url),
        Field(description="memory, or redis://HOST:PORT/DATABASE, rediss://..., unix://..."),
    ] = "memory"
    password_file: LocalPath | None = Field(None, description="of Redis")
    ttl_s: Positive = Field(3600, description="how long an answer is kept")
    most_mib: Few = Field(64, description="of all answers in memory")
    most_answer_kib: Few = Field(256, description="of one answer; a longer one is not kept")


class Budget(Strict):
    """Of one key, in the deployment's currency, over the last `days` days (UTC, today among
    them)."""

    soft: Money | None = Field(None, description="beyond it an alert is raised")
    hard: Money | None = Field(None, description="beyond it requests get 429")
    days: Annotated[int, Field(gt=0, le=3660)] = 30

    @model_validator(mode="after")
    def _alert_comes_first(self) -> Self:
        if self.soft is not None and self.hard is not None and self.soft > self.hard:
            raise ValueError(
                f"soft: found {self.soft:g}, beyond hard ({self.hard:g}), where nothing is answered"
                " any more. Expected less, so that the alert comes first"
            )
        return self


class Key(Strict):
    """One client. `cache`: whose answers it may get: its own, those of all keys that say `shared`,
    or none."""

    file: Annotated[LocalPath, Field(description="holds what the client sends as bearer token")]
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = Field(
        None, description="of prompt and answer, counted when the answer ends"
    )
    max_tokens: Positive | None = Field(None, description="of one answer; more is cut to it")
    cache: Literal["own", "shared", "off"] = "own"
    cache_sampled: bool = Field(
        False, description="keep also what was sampled without a seed, which may differ each time"
    )
    budget: Budget | None = None
    admin: bool = Field(False, description="may it see what all keys used?")


class Tier(Strict):
    """An approved artifact on one server: started by the gateway, or there already (`url`).

    `bundle` says in both cases what is approved, its digest, and what was measured."""

    bundle: Annotated[str, Field(min_length=1, description="a bundle: its folder or URL")]
    url: Annotated[
        Annotated[str, _http("http://HOST:PORT/v1")] | None,
        Field(description="of a server that runs already, ends in /v1; it must show the digest"),
    ] = None
    key_file: LocalPath | None = Field(None, description="with url: what that server asks for")
    benchmark: LocalPath | None = Field(
        None,
        description=(
            "a record of `quantgate benchmark --http` on that very server; default the bundle's"
        ),
    )
    price_per_hour: Money = Field(0.0, description="of the machine while it works on requests")
    timeout_s: Seconds = Field(
        60.0, description="until an answer begins, where no latency target says less"
    )

    @model_validator(mode="after")
    def _of_a_server(self) -> Self:
        if self.key_file and not self.url:
            raise ValueError("key_file: only with url; what the gateway starts has its own")
        return self


class Model(Strict):
    """Tiers in the order in which they are preferred, the cheapest first."""

    tiers: Annotated[dict[str, Tier], Field(min_length=1)]
    latency_target_ms: Milliseconds | None = Field(
        None, description="of a whole answer, where the request names none"
    )
    usual_tokens: Positive = Field(
        256, description="of an answer whose request does not say max_tokens"
    )
    escalate: list[Escalation] = Field(
        default=[],
        description=(
            "to the next tier: an answer that is empty, was cut at max_tokens, or does not fit the"
            " request's JSON schema"
        ),
    )

    @field_validator("tiers")
    @classmethod
    def _named(cls, tiers: dict[str, Tier]) -> dict[str, Tier]:
        _of_names(tiers)
        if taken := RESERVED & tiers.keys():
            raise ValueError(f"found the name {min(taken)!r}, which metrics and usage have already")
        return tiers


class Deploy(Strict):
    listen: Listen = Listen()
    policy: LocalPath = Field("signoff/policy.yaml", description="whom to believe")
    models: Annotated[dict[str, Model], Field(min_length=1)]
    keys: dict[str, Key] = Field(
        default={}, description="clients by name; without any, whoever reaches it may ask"
    )
    features: list[str] = Field(
        default=[], description="what a request may name in X-Feature; anything else is `other`"
    )
    cache: Cache | None = Field(None, description="of answers; without it there is none")
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "USD"
    usage: LocalPath = Field("usage.sqlite", description="where what was used is kept")
    traces: Annotated[
        Annotated[str, _http("http://HOST:4318/v1/traces")] | None,
        Field(description="of OpenTelemetry's collector, http://HOST:4318/v1/traces"),
    ] = None
    recheck_s: Seconds = Field(
        30.0, description="how often approvals are looked at again: a rejection holds this late"
    )
    drain_s: Seconds = Field(60.0, description="what requests have to end on a tier that is left")

    @field_validator("models", "keys")
    @classmethod
    def _named(cls, given: dict[str, object]) -> dict[str, object]:
        _of_names(given)
        return given

    @field_validator("features")
    @classmethod
    def _plain(cls, features: list[str]) -> list[str]:
        _of_names(features)
        return features


def load(path: Path) -> Deploy:
    """With every path as seen from the file's folder. Raises RecipeError."""
    deploy = parse(path, Deploy)
    base = path.parent
    keys = {
        name: key.model_copy(update={"file": _from(base, key.file)})
        for name, key in deploy.keys.items()
    }
    models = {
        name: model.model_copy(
            update={"tiers": {label: _tier(base, tier) for label, tier in model.tiers.items()}}
        )
        for name, model in deploy.models.items()
    }
    changed: dict[str, object] = {
        "policy": _from(base, deploy.policy),
        "usage": _from(base, deploy.usage),
        "keys": keys,
        "models": models,
    }
    if deploy.cache and deploy.cache.password_file:
        where = _from(base, deploy.cache.password_file)
        changed["cache"] = deploy.cache.model_copy(update={"password_file": where})
    if not deploy.keys and deploy.listen.host not in ("127.0.0.1", "::1", "localhost"):
        raise RecipeError(
            f"{path}: listen.host: found {deploy.listen.host!r} and no keys: whoever reaches this"
            " machine could use the models. Give keys, or leave host out (127.0.0.1)."
        )
    return deploy.model_copy(update=changed)


def _tier(base: Path, tier: Tier) -> Tier:
    bundle = tier.bundle if "://" in tier.bundle else _from(base, tier.bundle)
    paths = {
        name: _from(base, value)
        for name, value in (("key_file", tier.key_file), ("benchmark", tier.benchmark))
        if value
    }
    return tier.model_copy(update={"bundle": bundle, **paths})


def _from(base: Path, given: str) -> str:
    return str(base / given)
