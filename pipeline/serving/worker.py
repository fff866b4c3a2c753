"""The engine's end of pipeline.serving, in the engine's environment: orders come on stdin, reports
go to the descriptor that stdout was.

    python -m pipeline.serving.worker JOB"""

from __future__ import annotations

import os
import queue
import sys
import threading
from pathlib import Path
from typing import TextIO

from pipeline import engines
from pipeline.errors import QuantgateError
from pipeline.serving.conversations import Conversations
from pipeline.serving.text import Tokenizer
from pipeline.serving.wire import Answer, Job, Order, Report


def main(question: str) -> None:
    """Raises EvaluationError if the engine does not load."""
    job, reports = Job.model_validate_json(question), taken_stdout()
    artifact = Path(job.artifact)
    text = Tokenizer(artifact)
    with engines.open_serving(job.engine, artifact, job.serve) as engine:
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
    orders = _inbox()
    while True:
        answers: list[Answer] = []
        while _must_wait(conversations, answers) or not orders.empty():
            if (order := orders.get()) is None:
                return
            if order.ask:
                answers.append(conversations.begin(order.ask))
            elif order.cancel is not None:
                conversations.cancel(order.cancel)
        answers += conversations.step()
        if answers:
            _tell(reports, Report(answers=tuple(answers)))


def _must_wait(conversations: Conversations, answers: list[Answer]) -> bool:
    return not conversations.running and not answers


def _inbox() -> queue.SimpleQueue[Order | None]:
    """Orders as they come, then None."""
    orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            orders.put(Order.model_validate_json(line))
        orders.put(None)

    threading.Thread(target=read, daemon=True).start()
    return orders


def _tell(reports: TextIO, report: Report) -> None:
    reports.write(report.model_dump_json(exclude_defaults=True) + "\n")
    reports.flush()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except QuantgateError as error:
        sys.exit(f"quantgate: {error}")
    except BrokenPipeError:
        pass  # the server has ended
    sys.stdout.flush()
    os._exit(0)  # OpenVINO's threads can hang while they are torn down
