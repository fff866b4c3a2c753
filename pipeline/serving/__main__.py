"""Started by pipeline/engines/own_server, with a pipeline.serving.wire.Job."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import uvicorn

from pipeline.engines.own_server import KEY
from pipeline.serving import app
from pipeline.serving.backend import Backend
from pipeline.serving.wire import Job

DRAIN_S = 20  # what requests that run have to end, once the server is told to


class Server(uvicorn.Server):
    """Which does not send a signal on to itself once it has ended, as uvicorn's own does."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for stop in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(stop, self.handle_exit, stop, None)
        yield


async def serve(job: Job, key: str | None) -> int:
    """Until it is stopped, or the engine ends. Listens while the engine loads."""
    async with Backend(job) as backend:
        config = uvicorn.Config(
            app.make(backend, key),
            host=job.host,
            port=job.port,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
        server = Server(config)
        listening = asyncio.create_task(server.serve())
        ended = asyncio.create_task(backend.ended.wait())
        await asyncio.wait({listening, ended}, return_when=asyncio.FIRST_COMPLETED)
        died = not listening.done()
        server.should_exit = True
        await listening
        ended.cancel()
    return 2 if died else 0


if __name__ == "__main__":
    clients_key = os.environ.pop(KEY, None)  # before the engine's process could inherit it
    sys.exit(asyncio.run(serve(Job.model_validate_json(sys.argv[1]), clients_key)))
