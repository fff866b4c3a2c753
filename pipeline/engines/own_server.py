"""quantgate's own server, for an engine that brings none: how it is started. What it runs is
pipeline/serving."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from pipeline import engines
from pipeline.engines import server
from pipeline.engines.server import Served
from pipeline.recipe import Serve
from pipeline.runtime import environments

KEY = "QUANTGATE_API_KEY"
PACKAGE_PARENT = Path(__file__).resolve().parents[2]
# Behind the environment's own packages, since beside an installed quantgate lie those of another
# environment.
WORKER = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1));"
    " runpy.run_module('pipeline.serving.worker', run_name='__main__')"
)


def command(what: Served, host: str, port: int, folder: Path) -> list[str]:
    """The server itself runs in the environment that this runs in, on any core. Raises SetupError
    if the engine's is not installed."""
    environments.python(engines.ENGINES[what.engine].environment)
    job = {
        "engine": what.engine,
        "artifact": str(what.artifact),
        "serve": what.serve.model_dump(),
        "name": what.name,
        "digest": what.digest,
        "host": host,
        "port": port,
    }
    everywhere = sorted(os.sched_getaffinity(0))
    return [
        *server.leash(everywhere),
        sys.executable,
        "-m",
        "pipeline.serving",
        json.dumps(job),
    ]


def worker_command(engine: str, serve: Serve, job: str) -> list[str]:
    """Of the engine's own process."""
    python = str(environments.python(engines.ENGINES[engine].environment))
    return [
        *server.leash(engines.cores(serve)),
        python,
        "-c",
        WORKER,
        str(PACKAGE_PARENT),
        job,
    ]


def environment(serve: Serve) -> dict[str, str]:
    """Everything is an argument of the engine."""
    return {}


def settings(serve: Serve) -> dict[str, Any]:
    """For the record of what was measured over it."""
    return {"device": "cpu", **serve.model_dump()}
