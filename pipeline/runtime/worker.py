"""The other end of pipeline.runtime.process: runs one job inside a tool environment.

    python -m pipeline.runtime.worker VERB JOB.json RESULT.json PARENT_PID
    python -m pipeline.runtime.worker VERB JOB.json fd:N PARENT_PID

The second is a session: asked on stdin, it answers on descriptor N. The process dies with its
parent, so that a killed stage leaves nobody writing behind.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import QuantgateError
from pipeline.runtime import crash
from pipeline.runtime.leash import tie

VERBS = {
    "speed": "pipeline.runtime.speed:work",
    "check": "pipeline.source.architecture:work",
    "claim": "pipeline.stages.audit.claim:work",
    "calibrate": "pipeline.source.calibration:work",
    "quantize": "pipeline.quantizers:work",
    "count": "pipeline.evaluation.tasks:count",
    "weigh": "pipeline.evaluation.weigh:work",
    "evaluate": "pipeline.evaluation.jobs:work",
    "extend": "pipeline.evaluation.jobs:extend",
    "reference": "pipeline.evaluation.jobs:reference",
    "trace": "pipeline.benchmark.trace:work",
    "session": "pipeline.benchmark.session:converse",
    "load": "pipeline.benchmark.http:converse",
    "remeasure": "pipeline.release.signoff.again:work",
    "spread": "pipeline.spread.cluster:converse",
    "prepare": "pipeline.release.bundle.prepare:work",
}


def main(verb: str, request: str, response: str, parent: str) -> int:
    """Exit code 0 with a value, 2 with a QuantgateError; any other exception becomes one, its
    traceback goes into a log file."""
    if not tie(int(parent), signal.SIGKILL):
        return 1
    module, name = VERBS[verb].split(":")
    function, job = (
        getattr(importlib.import_module(module), name),
        json.loads(Path(request).read_text()),
    )
    stage = Path(request).parent.name
    if response.startswith("fd:"):
        return _converse(function, job, int(response.removeprefix("fd:")), stage)
    try:
        answer, code = {"value": function(job)}, 0
    except KeyboardInterrupt:
        return 130
    except (Exception, SystemExit) as error:
        answer, code = _failure(stage, error), 2
    partial = Path(f"{response}.part")
    try:
        partial.write_text(json.dumps(answer))
        partial.rename(response)
    except OSError as error:  # whoever waits for it shows the end of the log
        with contextlib.suppress(OSError):  # which may have no room either
            print(f"the result of {verb} cannot be written: {crash.of_system(error)}", flush=True)
        return 2
    return code


def _failure(stage: str, error: BaseException) -> dict[str, Any]:
    last = error if isinstance(error, QuantgateError) else crash.last(stage, error)
    return {"type": type(last).__name__, "error": str(last)}


def _converse(function: Callable[..., Any], job: dict[str, Any], answers: int, stage: str) -> int:
    """A session: questions come in as lines of JSON, answers go out as lines of JSON."""
    with os.fdopen(answers, "w") as out:
        try:
            for value in function(job, map(json.loads, sys.stdin)):
                print(json.dumps({"value": value}), file=out, flush=True)
        except (Exception, SystemExit) as error:
            print(json.dumps(_failure(stage, error)), file=out, flush=True)
            return 2
    return 0


if __name__ == "__main__":
    sys.stdout.flush()
    code = main(*sys.argv[1:])
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # Engines hold native threads whose tear-down can hang or crash after the work is done and
    # written.
    os._exit(code)
