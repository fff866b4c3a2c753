"""A configuration of LiteLLM's proxy for the same servers, for teams that run one. Its keys are
those of LiteLLM 1.110 (tests/test_deploy_litellm.py holds them against its source)."""

from __future__ import annotations

from pathlib import Path
from shlex import join, quote
from typing import Any
from urllib.parse import urlsplit

from pipeline.gateway.files import commands, names, text
from pipeline.gateway.files.plan import REDIS_PASSWORD, REDIS_PORT, Plan, Server

FILE = "litellm.yaml"
FIRST_PORT = 8001
MASTER_KEY = "LITELLM_MASTER_KEY"
CALLS = ["acompletion", "atext_completion"]  # what is kept of: answers, not embeddings
HEADER = """\
Written by quantgate deploy-files for LiteLLM's proxy: litellm --config litellm.yaml

A tier's `order` is its place in deploy.yaml: the next one is asked where those before it failed.
A model's name holds the digest of the artifact: a server that has another refuses the request.
What deploy.yaml says besides, and LiteLLM has no word for:
- approvals: a server goes on after its approval was taken back. Stop it yourself.
- what the benchmark of the artifact promises: LiteLLM routes by order, not by a latency that a
  request asks for.
- escalation of an answer that is empty, cut, or no JSON of its schema.
- whose answers a key may get from the cache: LiteLLM keeps any answer for all keys, sampled or not.
  So there is one only where each key says `cache: shared` and `cache_sampled: true`.
- cost by device time: LiteLLM counts prices by token.
Keys of clients, with their limits and budgets, are LiteLLM's own and need its database.
"""


def files(plan: Plan) -> dict[str, str]:
    return {FILE: render(plan)}


def render(plan: Plan) -> str:
    said: dict[str, Any] = {
        "model_list": [_deployment(plan, server) for server in plan.servers],
        # a failed request goes to the next tier at once; a tier that failed thrice rests
        "router_settings": {
            "routing_strategy": "simple-shuffle",
            "num_retries": 0,
            "allowed_fails": 3,
            "cooldown_time": 10,
        },
        "general_settings": {"master_key": f"os.environ/{MASTER_KEY}"},
    }
    if plan.deploy.cache and _all_share(plan):
        said["litellm_settings"] = {"cache": True, "cache_params": _cache(plan)}
    return text.yaml(said, HEADER)


def steps(plan: Plan) -> list[str]:
    made = [f'export {MASTER_KEY}="sk-$(openssl rand -hex 32)"']
    for server in plan.servers:
        if server.is_ours and server.key:
            made.append(f"openssl rand -hex 32 > {server.key} && chmod 600 {server.key}")
        if server.key:
            held = _absolute(server.settings.key_file) if server.settings.key_file else server.key
            made.append(f'export {_variable(server)}="$(cat {held})"')
    if plan.deploy.cache and plan.deploy.cache.password_file and _all_share(plan):
        held = _absolute(plan.deploy.cache.password_file)
        made.append(f'export {names.variable(REDIS_PASSWORD)}="$(cat {held})"')
    started = [join(["quantgate", *_serve(plan, server)]) + " &" for server in plan.ours]
    return [*made, *started, f"litellm --config {FILE}"]


def _serve(plan: Plan, server: Server) -> list[str]:
    assert server.key
    words = commands.serve(server.bundle.source, "127.0.0.1", _port(plan, server), server.key)
    rules = str(Path(plan.deploy.policy).absolute())
    return [rules if word == commands.RULES else word for word in words]


def _absolute(file: str) -> str:
    return quote(str(Path(file).absolute()))


def _port(plan: Plan, server: Server) -> int:
    return FIRST_PORT + plan.ours.index(server)


def _variable(server: Server) -> str:
    return names.variable(f"quantgate key {server.label}")


def _deployment(plan: Plan, server: Server) -> dict[str, Any]:
    tiers = list(plan.deploy.models[server.model].tiers)
    url = server.settings.url or f"http://127.0.0.1:{_port(plan, server)}/v1"
    key = f"os.environ/{_variable(server)}" if server.key else "none"  # LiteLLM wants one
    return {
        "model_name": server.model,
        "litellm_params": {
            "model": f"openai/{server.bundle.pinned}",
            "api_base": url,
            "api_key": key,
            "order": 1 + tiers.index(server.name),
            # of a whole answer, and of the next part of a streamed one
            "timeout": server.settings.timeout_s,
            "stream_timeout": server.settings.timeout_s,
            "max_parallel_requests": 5 * server.bundle.serve.max_num_seqs,  # run, and wait
        },
        "model_info": {"id": server.label},
    }


def _all_share(plan: Plan) -> bool:
    keys = plan.deploy.keys.values()
    return bool(keys) and all(key.cache == "shared" and key.cache_sampled for key in keys)


def _cache(plan: Plan) -> dict[str, Any]:
    cache = plan.deploy.cache
    assert cache
    kept = {"ttl": cache.ttl_s, "supported_call_types": CALLS}
    url = urlsplit(cache.url)
    if url.scheme not in ("redis", "rediss"):
        return {"type": "local", **kept}
    database = url.path.strip("/")
    return {
        "type": "redis",
        "host": url.hostname or "127.0.0.1",
        "port": url.port or REDIS_PORT,
        **({"db": int(database)} if database.isdecimal() else {}),
        **({"ssl": True} if url.scheme == "rediss" else {}),
        **(
            {"password": f"os.environ/{names.variable(REDIS_PASSWORD)}"}
            if cache.password_file
            else {}
        ),
        "namespace": "quantgate",
        **kept,
    }
