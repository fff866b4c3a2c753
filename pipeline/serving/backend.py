"""The server's end of pipeline.serving: starts the engine's process, sends it requests and hands
out what it answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import sys
from collections.abc import AsyncGenerator
from time import monotonic, time

from pydantic import ValidationError

from pipeline.engines import Sampling, own_server
from pipeline.serving.wire import Answer, Ask, Job, Message, Order, Report

LINE_BYTES = 1 << 26  # of one report
STOP_S = 10.0
QUEUED = 4  # requests that may wait, for each that may run
LATELY = 0.2  # weight of the last request in the mean time that one takes


Answers = asyncio.Queue[Answer | None]


class Busy(Exception):
    """`retry_after_s`: when a place is likely to be free."""

    def __init__(self, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s


class Unready(Exception):
    """The engine is still loading, or has ended."""


class Backend:
    """To be entered; `ended` is set once the engine's process has, for whatever reason."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.ready, self.ended, self.started_at = False, asyncio.Event(), int(time())
        self._keys = itertools.count()
        self._open: dict[int, tuple[float, Answers]] = {}  # with when they were asked
        self._request_s = 1.0  # of the last ones, decaying
        self._kv_cache_use = 0.0

    async def __aenter__(self) -> Backend:
        self._process = await asyncio.create_subprocess_exec(
            *own_server.worker_command(self.job.engine, self.job.serve, self.job.model_dump_json()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        if not self.ready:  # it reads no order before it has loaded
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_S)
        except TimeoutError:
            self._process.kill()
        await self._reading

    @property
    def running(self) -> int:
        return min(len(self._open), self.job.serve.max_num_seqs)

    @property
    def waiting(self) -> int:
        return len(self._open) - self.running

    @property
    def kv_cache_use(self) -> float:
        """The share of the KV cache that the requests take, 0 to 1."""
        return self._kv_cache_use if self._open else 0.0

    async def stream(
        self, prompt: str | list[int] | list[Message], sampling: Sampling, stop: list[str]
    ) -> AsyncGenerator[Answer, None]:
        """Answers to one request, in order; whoever stops listening ends it. Raises Busy,
        Unready."""
        key, answers = self._admitted()
        ended = False
        try:
            self._send(Order(ask=Ask(key=key, prompt=prompt, sampling=sampling, stop=stop)))
            while not ended:
                answer = await answers.get()
                if answer is None:
                    raise Unready
                ended = answer.ends
                yield answer
        finally:
            if self._open.pop(key, None):
                self._send(Order(cancel=key))

    def _admitted(self) -> tuple[int, Answers]:
        if not self.ready or self.ended.is_set():
            raise Unready
        places = self.job.serve.max_num_seqs
        if self.waiting >= QUEUED * places:
            turns = (self.waiting + 1) / places
            raise Busy(math.ceil(turns * self._request_s))
        key, answers = next(self._keys), Answers()
        self._open[key] = monotonic(), answers
        return key, answers

    def _send(self, order: Order) -> None:
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            line = order.model_dump_json(exclude_defaults=True) + "\n"
            self._process.stdin.write(line.encode())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                self._hand_out(Report.model_validate_json(line))
        except ValidationError:
            print(f"{self.job.name}: the engine's process said what is no report", file=sys.stderr)
        finally:  # nobody may wait for what does not come any more
            self.ready = False
            self.ended.set()
            for _, answers in self._open.values():
                answers.put_nowait(None)
            self._open.clear()

    def _hand_out(self, report: Report) -> None:
        if report.ready:
            self.ready = True
            print(f"{self.job.name}: ready", file=sys.stderr, flush=True)
        self._kv_cache_use = report.kv_cache_use
        for answer in report.answers:
            if answer.key not in self._open:  # its client has gone
                continue
            start, answers = self._open[answer.key]
            answers.put_nowait(answer)
            if answer.ends:  # its place is free, however slowly the client reads
                del self._open[answer.key]
                self._request_s += LATELY * (monotonic() - start - self._request_s)
