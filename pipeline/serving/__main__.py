"""Started by pipeline/engines/own_server, with a pipeline.serving.wire.Job."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

import uvicorn

from pipeline.engines.own_server import KEY
from pipeline.serving import app
from pipeline.serving.backend import Backend
from pipeline.serving.wire import Job

DRAIN_S = 20  # what requests that run have to end, once the server is told to


async def serve(job: Job) -> int:
    """Until it is stopped, or the engine ends. Listens while the engine loads."""
    async with Backend(job) as backend:
        config = uvicorn.Config(
            app.make(backend, os.environ.pop(KEY, None)),
            host=job.host,
            port=job.port,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
        server = uvicorn.Server(config)
        listening = asyncio.create_task(server.serve())
        ended = asyncio.create_task(backend.ended.wait())
        await asyncio.wait({listening, ended}, return_when=asyncio.FIRST_COMPLETED)
        died = not listening.done()
        server.should_exit = True
        await listening
    return 2 if died else 0


if __name__ == "__main__":
    # uvicorn ends its requests first, then lets the signal through
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(serve(Job.model_validate_json(sys.argv[1]))))
