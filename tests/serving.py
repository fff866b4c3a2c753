"""The server of pipeline.serving over the fake engine, for tests without an engine: HTTP and the
engine's process are real, tokens are letters.

python -m tests.serving JOB OPTIONS   the engine's end; what pipeline.serving.worker is otherwise"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from pipeline.engines import Sampling, Step, own_server
from pipeline.engines.fake import EOS, VOCABULARY, FakeEngine
from pipeline.recipe import Serve
from pipeline.serving import app, worker
from pipeline.serving.backend import Backend
from pipeline.serving.continuation import Decode
from pipeline.serving.conversations import Conversations
from pipeline.serving.text import TemplateRefused
from pipeline.serving.wire import Job, Message

LETTERS = "  abcdefghijklmnopqrstuvwxyz .,!"  # the first two are special, and have no text
SERVE = Serve(max_model_len=64, max_num_seqs=2, max_num_batched_tokens=64, kv_cache_gib=1)
NAME, DIGEST = "fake", "d1635"
START_S = 30.0


class Letters:
    """One token a letter; what is none of them is one of them all the same. Fails at seven q."""

    size = VOCABULARY

    def encode(self, text: str) -> list[int]:
        if text == 7 * "q":
            raise KeyError(text)
        return [LETTERS.find(letter, 2) % VOCABULARY for letter in text]

    def dialogue(self, messages: list[Message]) -> list[int]:
        if messages[0].role == "judge":
            raise TemplateRefused("the model's chat template refuses them: no judge")
        return self.encode("".join(message.content for message in messages))

    def decoder(self, prompt: list[int]) -> Decode:
        return self.token

    def token(self, token: int) -> str:
        return LETTERS[token] if token > EOS else ""


@dataclass
class Running:
    """`url` ends in /v1."""

    url: str
    port: int
    loop: asyncio.AbstractEventLoop
    backend: Backend
    stop: Callable[[], None]


@contextlib.contextmanager
def running(
    folder: Path, patch: Any, key: str | None = None, wait: bool = True, **options: Any
) -> Iterator[Running]:
    """`options`: the fake engine's, `die_after` and `babble_after`: steps until its process ends,
    or writes what it should not, `lose_at`: steps that lose all,
    `load_s`: until it is ready, `willing`: to be asked for any
    sampling; `patch` is pytest's monkeypatch."""
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS}))
    patch.setattr(
        own_server,
        "worker_command",
        lambda engine, serve, job: [
            sys.executable,
            "-m",
            "tests.serving",
            job,
            json.dumps(options),
        ],
    )
    made: list[tuple[Backend, uvicorn.Server, asyncio.AbstractEventLoop]] = []

    async def serve() -> None:
        job = Job(
            engine="fake",
            artifact=str(folder),
            serve=SERVE,
            name=NAME,
            digest=DIGEST,
            host="127.0.0.1",
            port=0,
        )
        async with Backend(job) as backend:
            config = uvicorn.Config(app.make(backend, key), port=0, log_level="warning")
            server = uvicorn.Server(config)
            made.append((backend, server, asyncio.get_running_loop()))
            await server.serve()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    until(lambda: bool(made) and made[0][1].started)
    backend, server, loop = made[0]
    port = server.servers[0].sockets[0].getsockname()[1]

    def stop() -> None:
        server.should_exit = True
        thread.join(START_S)

    try:
        if wait:
            until(lambda: backend.ready)
        yield Running(f"http://127.0.0.1:{port}/v1", port, loop, backend, stop)
    finally:
        stop()


def until(holds: Callable[[], bool], within_s: float = START_S) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(0.01)


class Willing(FakeEngine):
    """Takes every sampling for greedy."""

    def submit(self, key: int, prompt: list[int], sampling: Sampling) -> None:
        super().submit(key, prompt, Sampling(sampling.max_tokens, sampling.ignore_eos))


class Losing(Willing):
    """Loses all that it has in each of these steps, counted from 1."""

    def __init__(self, *given: Any, lose_at: Sequence[int], **more: Any) -> None:
        super().__init__(*given, **more)
        self._at, self._steps = set(lose_at), 0

    def step(self) -> list[Step]:
        self._steps += 1
        if self._steps not in self._at:
            return super().step()
        lost = [Step(key, [], True, "told to lose all", lost=True) for key in self._running]
        self._running.clear()
        return lost


class Broken(FakeEngine):
    """Does `harm` in a step."""

    def __init__(self, *given: Any, after: int, harm: Callable[[], None], **more: Any) -> None:
        super().__init__(*given, **more)
        self._left, self._harm = after, harm

    def step(self) -> Any:
        self._left -= 1
        if self._left < 0:
            self._harm()
        return super().step()


def main(job_text: str, options_text: str) -> None:
    job, options = Job.model_validate_json(job_text), json.loads(options_text)
    reports = worker.taken_stdout()
    time.sleep(options.pop("load_s", 0))
    die_after, babble_after = options.pop("die_after", None), options.pop("babble_after", None)
    willing, lose_at = options.pop("willing", False), options.pop("lose_at", None)
    artifact = Path(job.artifact)
    engine = (Willing if willing else FakeEngine)(artifact, job.serve, **options)
    if lose_at:
        engine = Losing(artifact, job.serve, lose_at=lose_at, **options)
    if die_after is not None:
        engine = Broken(
            artifact, job.serve, after=die_after, harm=lambda: sys.exit("told to die"), **options
        )
    if babble_after is not None:
        engine = Broken(
            artifact,
            job.serve,
            after=babble_after,
            harm=lambda: print("no report", file=reports, flush=True),
            **options,
        )
    with engine:
        worker.converse(
            Conversations(engine, Letters(), artifact, job.serve.max_model_len), reports
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
