"""Starts a checked bundle under the settings it was measured with: `vllm serve`, or OpenVINO
GenAI's pipeline on the terminal."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from pipeline import capabilities, engines
from pipeline.engines import vllm_server
from pipeline.errors import EvaluationError, SetupError
from pipeline.release import fetch
from pipeline.release.bundle import layout, serve_settings
from pipeline.release.bundle.serve_settings import Settings
from pipeline.release.signoff import policy
from pipeline.runtime import environments

HOST, PORT = "127.0.0.1", 8000
KEY = "QUANTGATE_API_KEY"  # what vLLM's server asks of its clients as a bearer token
PACKAGE_PARENT = Path(__file__).resolve().parents[2]
# Behind the environment's own packages, since beside an installed quantgate lie those of another
# environment.
PROMPTING = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1));"
    " runpy.run_module('pipeline.release.prompting', run_name='__main__')"
)


def serve(what: str, rules_path: Path, host: str | None, port: int | None) -> None:
    """Runs until it is stopped, or its input ends. `host` and `port` are of vLLM's server.

    Raises Tampered or Rejected before anything is started.
    """
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # what service managers stop with: ends as Ctrl-C does
    with fetch.opened(what, policy.load(rules_path)) as (bundle, checked):
        settings = serve_settings.read(bundle / layout.SERVE)
        print(f"{checked.signed.entry}: {checked.standing.words}", file=sys.stderr, flush=True)
        name = f"{checked.signed.entry.recipe}-{checked.signed.entry.variant}"
        command, surroundings = _command(bundle, settings, name, host, port)
        with subprocess.Popen(command, env=surroundings) as server:
            try:
                code = server.wait()
            except KeyboardInterrupt:
                server.terminate()
                return
    if code:
        raise EvaluationError(
            f"{name}: the engine ended with exit code {code}. Its own words are above."
        )


def _command(
    bundle: Path, settings: Settings, name: str, host: str | None, port: int | None
) -> tuple[list[str], dict[str, str]]:
    engine = capabilities.ENGINES[settings.engine]
    if engine.serves_http:
        host, port = host or HOST, port or PORT
        surroundings = vllm_server.surroundings(settings.serve) | _key(host)
        _require_free(host, port)
        print(
            f"{name}: starting on http://{host}:{port}/v1 (Ctrl-C stops it)",
            file=sys.stderr,
            flush=True,
        )
        return vllm_server.command(bundle, settings.serve, name, port, host), surroundings
    if host or port:
        raise SetupError(
            f"{name}: --host and --port are of vLLM's server; an {engine.name} bundle reads prompts"
            " from the terminal. Leave them out."
        )
    cores = ",".join(map(str, engines.cores(settings.serve)))
    leash = [sys.executable, "-m", "pipeline.runtime.leash", str(os.getpid()), cores]
    python = str(environments.python(engine.environment))
    job = json.dumps(
        {"engine": settings.engine, "artifact": str(bundle), "serve": settings.serve.model_dump()}
    )
    return [*leash, python, "-c", PROMPTING, str(PACKAGE_PARENT), job], vllm_server.surroundings(
        settings.serve
    )


def _key(host: str) -> dict[str, str]:
    """The server's key, by its environment: others can read a command line. Raises SetupError for
    an open door."""
    key = os.environ.get(KEY, "")
    if not key and not _is_loopback(host):
        raise SetupError(
            f"--host {host}: whoever reaches this machine could use the model. Set {KEY} to what"
            f" clients must send as their bearer token, or leave --host out ({HOST})."
        )
    return {"VLLM_API_KEY": key} if key else {}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _require_free(host: str, port: int) -> None:
    """Raises SetupError at once rather than after the engine has loaded."""
    try:
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind((host, port))
    except (OSError, OverflowError) as error:
        raise SetupError(
            f"{host}:{port}: cannot be listened on ({error}). Give another with --port."
        ) from error
