"""Cores of this machine for one job, which no other job has meanwhile.

Engines take every core that they may run on. Ray counts cores and names none, so each job locks as
many as it was promised; the kernel lets go of the locks when the job dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

LOOK_S = 0.2


@contextlib.contextmanager
def taken(count: int, folder: Path) -> Iterator[list[int]]:
    """So many of the cores that this process may run on, or all of them if it has fewer. Waits for
    jobs that have not ended yet. `folder` holds the machine's locks."""
    folder.mkdir(parents=True, exist_ok=True)
    allowed = sorted(os.sched_getaffinity(0))
    wanted = min(count, len(allowed))
    cores: list[int] = []
    with contextlib.ExitStack() as held:
        while len(cores) < wanted:
            free = (core for core in allowed if core not in cores)
            core = next((core for core in free if _locked(folder / f"{core}", held)), None)
            if core is None:
                time.sleep(LOOK_S)
            else:
                cores.append(core)
        yield cores


def _locked(path: Path, held: contextlib.ExitStack) -> bool:
    handle = path.open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return False
    held.enter_context(handle)
    return True
