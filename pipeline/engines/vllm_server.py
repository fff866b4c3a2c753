"""`vllm serve`, under the settings of the engine in process (pipeline/engines/vllm)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import engines
from pipeline.engines import server, vllm
from pipeline.engines.server import Served
from pipeline.recipe import Serve
from pipeline.runtime import environments

KEY = "VLLM_API_KEY"


def command(what: Served, host: str, port: int, folder: Path) -> list[str]:
    python = environments.python("vllm")
    where = [
        "--host",
        host,
        "--port",
        str(port),
        "--served-model-name",
        what.name,
        *([what.pinned] if what.digest else []),
        "--disable-uvicorn-access-log",
    ]
    return [
        *server.leash(engines.cores(what.serve)),
        str(python),
        str(python.with_name("vllm")),
        "serve",
        str(what.artifact),
        *where,
        *options(vllm.arguments(what.serve)),
    ]


def environment(serve: Serve) -> dict[str, str]:
    return vllm.environment(serve)


def settings(serve: Serve) -> dict[str, Any]:
    """For the record of what was measured over it."""
    return {
        "device": environments.device(),
        **vllm.arguments(serve),
        **vllm.environment(serve),
    }


def options(arguments: dict[str, Any]) -> list[str]:
    """LLM()'s arguments as options of the command: max_num_seqs=8 is --max-num-seqs 8, eager=False
    is --no-eager."""
    words: list[str] = []
    for key, value in arguments.items():
        name = key.replace("_", "-")
        words += (
            [f"--{name}" if value else f"--no-{name}"]
            if isinstance(value, bool)
            else [f"--{name}", str(value)]
        )
    return words
