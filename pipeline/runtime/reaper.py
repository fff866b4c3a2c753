"""Waits for its parent to die, however that dies, and then kills a process group.

    python -m pipeline.runtime.reaper PARENT_PID GROUP

vLLM's engine runs in processes of its own, which outlive a worker that is killed.
"""

from __future__ import annotations

import os
import signal
import sys

from pipeline.runtime.leash import tie


def main(parent: str, group: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    if tie(int(parent), signal.SIGTERM):
        signal.sigwait([signal.SIGTERM])
    os.killpg(int(group), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
