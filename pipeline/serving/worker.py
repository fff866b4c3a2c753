"""The engine's end of pipeline.serving, in the engine's environment: orders come on stdin, reports
go to the descriptor that stdout was.

    python -m pipeline.serving.worker JOB"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from pipeline import engines
from pipeline.errors import EvaluationError, QuantgateError
from pipeline.runtime import crash
from pipeline.serving.conversations import Conversations
from pipeline.serving.text import Tokenizer
from pipeline.serving.wire import Answer, Job, Order, Report

LONGEST = 300  # characters of an error's own text
TAKING_S = 0.02  # for orders, between two steps, while others wait for their tokens


def main(question: str) -> None:
    """Raises EvaluationError if tokenizer or engine do not load."""
    job, reports = Job.model_validate_json(question), taken_stdout()
    artifact = Path(job.artifact)
    try:
        text = Tokenizer(artifact)
    except Exception as error:  # transformers has no class of its own for what it does not load
        reason = " ".join(str(error).split())[:LONGEST]
        raise EvaluationError(
            f"{artifact}: its tokenizer cannot be loaded: {type(error).__name__}: {reason}"
        ) from error
    with engines.open_served(job.engine, artifact, job.serve) as engine:
        engines.generate(engine, [[0]], [1], stop_at_eos=False)  # some load when first asked
        converse(Conversations(engine, text, artifact, job.serve.max_model_len), reports)


def taken_stdout() -> TextIO:
    """Whatever a library prints is no report."""
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return reports


def converse(conversations: Conversations, reports: TextIO) -> None:
    """Until stdin ends, which it does with the server."""
    _tell(reports, Report(ready=True))
    orders, told = _inbox(), 0.0
    while True:
        answers: list[Answer] = []
        until = time.monotonic() + TAKING_S
        while (orders.qsize() and time.monotonic() < until) or _idle(conversations, answers):
            if (order := orders.get()) is None:
                return
            if order.ask:
                answers.append(conversations.begin(order.ask))
            elif order.cancel is not None:
                conversations.cancel(order.cancel)
        answers += conversations.step()
        use = conversations.kv_cache_use()
        if answers or use != told:
            told = use
            _tell(reports, Report(answers=tuple(answers), kv_cache_use=use))


def _idle(conversations: Conversations, answers: list[Answer]) -> bool:
    """Nothing to be done but to wait for an order."""
    return not conversations.running and not answers


def _inbox() -> queue.SimpleQueue[Order | None]:
    """Orders as they come, then None."""
    orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for line in sys.stdin:
                orders.put(Order.model_validate_json(line))
        except ValueError as error:
            print(f"quantgate: what came is no order: {crash.place(error)}", file=sys.stderr)
        finally:
            orders.put(None)

    threading.Thread(target=read, daemon=True).start()
    return orders


def _tell(reports: TextIO, report: Report) -> None:
    reports.write(report.model_dump_json(exclude_defaults=True) + "\n")
    reports.flush()


def run(question: str) -> int:
    """The exit code."""
    # Ctrl-C is for the server, which ends its requests first, and this then
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        main(question)
    except BrokenPipeError:
        return 0  # the server has ended
    except QuantgateError as error:
        print(f"quantgate: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        print(f"quantgate: the engine failed: {crash.place(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    code = run(sys.argv[1])
    sys.stderr.flush()
    os._exit(code)  # OpenVINO's threads can hang while they are torn down
