"""Starts a checked bundle under the settings it was measured with, behind the OpenAI API."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline import reading
from pipeline.engines import server
from pipeline.engines.host import lacks
from pipeline.engines.server import Served
from pipeline.errors import EvaluationError, SetupError
from pipeline.records import artifact
from pipeline.release import fetch
from pipeline.release.bundle import layout, serve_settings
from pipeline.release.signoff import policy

PORT = 8000
KEY = "QUANTGATE_API_KEY"  # by which the key came before
LARGEST_KEY = 4096  # bytes


def serve(
    what: str,
    rules_path: Path,
    host: str | None,
    port: int | None,
    api_key_file: Path | None,
    kind: str | None,
) -> None:
    """Runs until it is stopped; `kind`: which of the engine's servers.

    Raises Tampered or Rejected before anything is started, SetupError for an address that cannot be
    listened on or that others reach without a key.
    """
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # what service managers stop with: ends as Ctrl-C does
    host, port = host or server.HOST, port or PORT
    key = _key(host, api_key_file)
    with fetch.opened(what, policy.load(rules_path)) as (bundle, checked):
        settings = serve_settings.read(bundle / layout.SERVE)
        entry = checked.signed.entry
        print(f"{entry}: {checked.standing.words}", file=sys.stderr, flush=True)
        digest = artifact.digest(checked.records.manifest.files)
        name = f"{entry.recipe}-{entry.variant}"
        if lacking := lacks(checked.records.variant, settings.serve):
            raise SetupError(f"{name}: {lacking}.")
        served = Served(settings.engine, bundle, settings.serve, name, digest, kind)
        code = _run(served, host, port, key)
    if code:
        raise EvaluationError(
            f"{name}: the engine ended with exit code {code}. Its own words are above."
        )


def _run(what: Served, host: str, port: int, key: str | None) -> int:
    """The exit code of the server; 0 if it was stopped."""
    with tempfile.TemporaryDirectory(prefix="quantgate-") as folder:
        command = server.of(what).command(what, host, port, Path(folder))
        require_free(host, port)
        where = f"{host}:{port}"
        print(f"{what.name}: starting on http://{where} (Ctrl-C stops it)", file=sys.stderr)
        with subprocess.Popen(command, env=server.surroundings(what, key)) as running:
            try:
                return running.wait()
            except KeyboardInterrupt:
                running.terminate()
                return 0


def _key(host: str, file: Path | None) -> str | None:
    """What clients must send as their bearer token. Raises SetupError for an open door."""
    if file is None:
        if KEY in os.environ:
            raise SetupError(
                f"{KEY}: found a value, but the key is read from a file, and nothing asked of"
                " clients without. Put it there, and name the file: --api-key-file FILE"
            )
        if not _is_loopback(host):
            raise SetupError(
                f"--host {host}: whoever reaches this machine could use the model. Name a file that"
                " holds what clients must send as their bearer token (--api-key-file FILE), or"
                f" leave --host out ({server.HOST})."
            )
        return None
    return read_key(file)


def read_key(file: Path) -> str:
    """What clients must send as their bearer token. Raises SetupError for anything else in it."""
    key = reading.text(file, SetupError, LARGEST_KEY).strip()
    if not key.isascii() or not key.isprintable() or " " in key or not key:
        raise SetupError(
            f"{file}: not a key: expected one word of printable ASCII characters, such as"
            " `openssl rand -hex 32` prints."
        )
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_free(host: str, port: int, where: str = "--port") -> None:
    """Raises SetupError at once rather than after the engine has loaded. `where`: what says the
    port."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family):
            pass
    except (OSError, OverflowError) as error:
        raise SetupError(
            f"{host}:{port}: cannot be listened on ({error}). Give another: {where}."
        ) from error
