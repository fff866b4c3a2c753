"""The other end of pipeline.process: runs one job inside a tool environment.

    python -m pipeline.worker VERB JOB.json RESULT.json PARENT_PID

The process dies with its parent, so that a killed stage leaves nobody writing behind.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import signal
import sys
from pathlib import Path

from pipeline.errors import QuantgateError

VERBS = {
    "calibrate": "pipeline.calibration:work",
    "quantize": "pipeline.quantizers:work",
    "count": "pipeline.evaluation.tasks:count",
    "evaluate": "pipeline.evaluation.verbs:work",
    "extend": "pipeline.evaluation.verbs:extend",
    "reference": "pipeline.evaluation.verbs:reference",
    "benchmark": "pipeline.benchmark:work",
}
PR_SET_PDEATHSIG = 1


def main(verb: str, request: str, response: str, parent: str) -> int:
    """Exit code 0 with a value, 2 with a QuantgateError; any other exception ends the process as Python does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        return 1
    module, function = VERBS[verb].split(":")
    try:
        value = getattr(importlib.import_module(module), function)(json.loads(Path(request).read_text()))
        answer, code = {"value": value}, 0
    except QuantgateError as error:
        answer, code = {"type": type(error).__name__, "error": str(error)}, 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # every library wraps a full disk in an error of its own
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        answer, code = {"type": "ArtifactError", "error": f"the disk is full ({error}). Free some space and run again."}, 2
    partial = Path(f"{response}.part")
    partial.write_text(json.dumps(answer))
    partial.rename(response)
    return code


if __name__ == "__main__":
    sys.stdout.flush()
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Engines hold native threads whose tear-down can hang or crash after the work is done and written.
    os._exit(code)
