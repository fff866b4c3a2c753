"""Started by pipeline/engines/own_server, with a pipeline.serving.wire.Job."""

from __future__ import annotations

import asyncio
import os
import sys

from pipeline.engines.own_server import KEY
from pipeline.serving import app, listening
from pipeline.serving.backend import Backend
from pipeline.serving.wire import Job


async def serve(job: Job, key: str | None) -> int:
    """Until it is stopped, or the engine ends. Listens while the engine loads."""
    async with Backend(job) as backend:
        server = listening.server(app.make(backend, key), job.host, job.port)
        serving = asyncio.create_task(server.serve())
        ended = asyncio.create_task(backend.ended.wait())
        await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
        died = not serving.done()
        server.should_exit = True
        await serving
        ended.cancel()
    return 2 if died else 0


if __name__ == "__main__":
    clients_key = os.environ.pop(KEY, None)  # before the engine's process could inherit it
    sys.exit(asyncio.run(serve(Job.model_validate_json(sys.argv[1]), clients_key)))
