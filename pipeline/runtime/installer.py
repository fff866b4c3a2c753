"""Puts exactly pinned packages into an environment, by uv (https://docs.astral.sh/uv/). Standard
library only.

What pip takes three minutes for, uv does in fifteen seconds, and what several environments have in
common it keeps once. Where packages come from people tell pip; uv does not read that, so it is
handed over, as variables, since an index's address may hold a password."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

UV = "uv==0.13.9"
COMPLETE = "quantgate-complete"
WORD, COMMA = " ", ","
# pip's settings by their names: uv's variable, and what stands between several.
VARIABLES = {
    "index-url": ("UV_DEFAULT_INDEX", WORD),
    "extra-index-url": ("UV_INDEX", WORD),
    "find-links": ("UV_FIND_LINKS", COMMA),
    "trusted-host": ("UV_INSECURE_HOST", WORD),
    "timeout": ("UV_HTTP_TIMEOUT", WORD),
    "default-timeout": ("UV_HTTP_TIMEOUT", WORD),
    "cert": ("SSL_CERT_FILE", WORD),
    "client-cert": ("SSL_CLIENT_CERT", WORD),
    "proxy": ("ALL_PROXY", WORD),
}
# Of all indexes the pinned version, as pip; nothing of a configuration that lies about.
ALWAYS = {
    "UV_INDEX_STRATEGY": "unsafe-best-match",
    "UV_NO_CONFIG": "1",
    "UV_NO_PROGRESS": "1",
    "UV_PYTHON_DOWNLOADS": "never",
}


@dataclass(frozen=True)
class Installer:
    """uv's program, with what pip was told."""

    program: Path
    variables: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    def install(self, python: Path, *what: str) -> list[str]:
        """The command; without dependencies, since the pins are complete."""
        uv = [str(self.program), "pip", "install", "--python", str(python), "--no-deps"]
        return [*uv, *self.options, *what]


def ready(root: Path) -> Installer:
    """uv below the root, where it is put by pip if it is not there. Raises CalledProcessError with
    what pip said."""
    home = root / UV.replace("==", "-")
    program, python = home / "bin" / "uv", home / "bin" / "python"
    with locked(home.with_suffix(".lock")):
        if not (home / COMPLETE).is_file():
            shutil.rmtree(home, ignore_errors=True)
            _call([sys.executable, "-m", "venv", str(home)])
            _call([str(python), "-m", "pip", "install", "-q", "--no-deps", UV])
            (home / COMPLETE).touch()
    settings = pip_settings(_call([str(python), "-m", "pip", "config", "list"]))
    cache = {"UV_CACHE_DIR": str(root / "uv-cache")}
    options = ("--no-index",) if settings.get("no-index", "") not in ("", "0", "false") else ()
    return Installer(program, {**ALWAYS, **cache, **variables(settings), **os.environ}, options)


def pip_settings(listed: str) -> dict[str, str]:
    """What `pip config list` printed, by the settings' names: a file's for all commands, then those
    of `pip install`, then the environment's variables, which go before it."""
    rows = [line.partition("=") for line in listed.splitlines() if "=" in line]
    scopes: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for key, _, value in rows:
        scope, _, name = key.rpartition(".")
        scopes.get(scope, {})[name] = str(ast.literal_eval(value))
    return {**scopes["global"], **scopes["install"], **scopes[":env:"]}


def variables(settings: dict[str, str]) -> dict[str, str]:
    """uv's variables for pip's settings; what uv has no word for is left out."""
    return {
        VARIABLES[name][0]: VARIABLES[name][1].join(value.split())
        for name, value in settings.items()
        if name in VARIABLES and value.strip()
    }


def _call(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
