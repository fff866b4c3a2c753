"""A process that is told to stop when its parent dies, however that dies.

    python -m pipeline.runtime.leash PARENT_PID CORES PROGRAM ARGUMENT... (CORES such as 0,1)

becomes the program, tied to the parent and kept on those cores.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def tie(parent: int, stop: signal.Signals) -> bool:
    """The kernel sends `stop` to this process once its parent is gone (Linux); False if it is gone
    already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, stop)
    return os.getppid() == parent


def main(parent: str, cores: str, *command: str) -> int:
    if not tie(int(parent), signal.SIGTERM):
        return 1
    os.sched_setaffinity(0, map(int, cores.split(",")))
    os.execv(command[0], command)  # noqa: S606  (no shell is wanted)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
