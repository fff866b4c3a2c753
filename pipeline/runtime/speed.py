"""How fast this machine is: measured once, in about ten seconds, by the library that does the work,
and kept.

`here` is of the control environment, `work` of the openvino environment, which has torch. What
counts is what the machine can do and not how busy it is just now: each rate is the best of several
tries, and products are timed on one core, in processor time, times the cores."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.records import Speed, artifact, read
from pipeline.runtime import environments, machine, process

QUIET = 0.1  # of the machine's processor time may go to others while it is measured
TRY_S = 1.5  # of trying, for each rate
TOO_LONG_S = 5 * TRY_S  # bfloat16 without instructions for it takes half a minute
DTYPES = ("float32", "bfloat16")
ROWS, WIDTH = 1024, 2048  # of a product: a batch of the reference's tokens and a usual hidden size
COPIED_BYTES = 1 << 28  # far more than the caches hold
WRITTEN_BYTES = 1 << 28


def here() -> Speed | None:
    """Measures if this machine was not measured yet, or was busy then: the better of each rate is
    kept.

    None if the environment that measures is not installed.
    """
    path = _path()
    known = read(path, Speed) if path.is_file() else None
    if (known is not None and known.others_share <= QUIET) or not environments.is_complete(
        "openvino"
    ):
        return known
    print(
        "measuring how fast this machine is: about ten seconds, once if nothing else runs",
        flush=True,
    )
    before = machine.processor()
    with artifact.stage_folder("speed") as folder:
        done = process.run(
            "openvino", "speed", {"folder": str(folder.resolve())}, folder, offline=True
        )
    after = machine.processor()._replace(
        own_s=before.own_s + done.processor_s
    )  # of a process that has ended by now
    kept = {name: max(rate, getattr(known, name, 0)) for name, rate in done.value.items()}
    measured = Speed(**_identity(), **kept, others_share=machine.others_share(before, after))
    measured.write(path)
    return measured


def _identity() -> dict[str, Any]:
    host = machine.describe()
    return {
        "cpu": host["cpu"],
        "cores": len(host["cores_allowed"]),
        "memory_bytes": host["memory_bytes"],
    }


def _path() -> Path:
    """Beside the environments, since it is of the machine; by what identifies it, since the folder
    may be shared by several."""
    name = hashlib.sha256(repr(sorted(_identity().items())).encode()).hexdigest()[:16]
    return environments.root().parent / "speed" / f"{name}.json"


def work(job: dict[str, Any]) -> dict[str, float]:
    """Worker verb: the rates of a Speed. Writes its file below job["folder"]."""
    import torch

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(1)
    products = [
        cores * 2 * ROWS * WIDTH * WIDTH / best(_product(torch, dtype), time.thread_time)
        for dtype in DTYPES
    ]
    torch.set_num_threads(cores)
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    block, file = bytes(WRITTEN_BYTES), Path(job["folder"]) / "written"
    return {
        "float32_flops": products[0],
        "bfloat16_flops": products[1],
        "memory_bytes_per_s": 2
        * COPIED_BYTES
        / best(lambda: target.copy_(source), time.perf_counter),
        "disk_bytes_per_s": WRITTEN_BYTES / best(lambda: _written(file, block), time.perf_counter),
    }


def _product(torch: Any, dtype: str) -> Callable[[], Any]:
    left, right = (
        torch.ones(shape, dtype=getattr(torch, dtype)) for shape in ((ROWS, WIDTH), (WIDTH, WIDTH))
    )
    return lambda: left @ right


def _written(file: Path, block: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())


def best(act: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Seconds of the fastest of the tries that TRY_S has time for, the first not counted: two at
    least. What takes longer than TOO_LONG_S is tried once."""
    start = clock()
    act()
    if (first := clock() - start) > TOO_LONG_S:
        return first
    times: list[float] = []
    while sum(times) < TRY_S or len(times) < 2:
        start = clock()
        act()
        times.append(clock() - start)
    return min(times)
