"""What this machine has: for `quantgate doctor` and beside every measured figure."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import psutil

INSTRUCTION_SETS = {
    "avx2": "the least that OpenVINO and vLLM run on",
    "avx512f": "vLLM's kernels for 4 bits, and faster ones of both engines",
    "avx512_vnni": "fast INT8 arithmetic",
    "avx512_bf16": "native bfloat16 arithmetic, and with it OpenVINO at vLLM's precision",
    "amx_bf16": "bfloat16 matrix units",
    "amx_int8": "INT8 matrix units",
}


def describe() -> dict[str, Any]:
    """Processor, cores, instruction sets, memory, load: what a timing depends on."""
    flags, model = _cpuinfo()
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "cores_allowed": sorted(os.sched_getaffinity(0)),
        "numa_nodes": numa_nodes(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def gpus() -> list[str]:
    """Name and memory of each NVIDIA GPU that the driver lists; empty without a driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout.splitlines() if answer.returncode == 0 else []


class Processor(NamedTuple):
    """Seconds of processor time since the start: of all cores, those not idle, and this process's
    with its children's."""

    whole_s: float
    busy_s: float
    own_s: float


def processor(pid: int | None = None) -> Processor:
    """`pid` is the root of the process tree that counts as own; default this process."""
    times = psutil.cpu_times()
    whole = (
        sum(times) - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0)
    )  # Linux counts guests in user time too
    root = psutil.Process(pid)
    return Processor(
        whole,
        whole - times.idle - getattr(times, "iowait", 0),
        sum(map(_spent_s, (root, *root.children(recursive=True)))),
    )


def _spent_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:  # it ended between listing and reading
        return 0.0
    return float(times.user + times.system)


def others_share(before: Processor, after: Processor) -> float:
    """Share of the machine's processor time that went to other processes in between."""
    whole, busy, own = (b - a for a, b in zip(before, after, strict=True))
    return max(0.0, busy - own) / whole if whole > 0 else 0.0


def numa_nodes() -> dict[str, str]:
    """The cores of each NUMA node, as Linux lists them; empty elsewhere."""
    nodes = sorted(Path("/sys/devices/system/node").glob("node[0-9]*"))
    return {node.name: (node / "cpulist").read_text().strip() for node in nodes}


class Memory(NamedTuple):
    """In bytes: what this process and its children may ever have, and what of it is free or can be
    made so."""

    total: int
    available: int


# Where the two versions of control groups tell it: limit, usage, and what of the usage are cached
# files.
GROUPS = {
    "": (Path("/sys/fs/cgroup"), "memory.max", "memory.current", ("active_file", "inactive_file")),
    "memory": (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes",
               ("total_active_file", "total_inactive_file")),
}  # fmt: skip


def memory(membership: str | None = None) -> Memory:
    """The machine's, or less where a control group (a container, a batch system's job) has a limit.

    `membership` is what /proc/self/cgroup says.
    """
    whole = psutil.virtual_memory()
    least = Memory(whole.total, whole.available)
    lines = Path("/proc/self/cgroup").read_text() if membership is None else membership
    for _, kinds, path in (line.split(":", 2) for line in lines.splitlines()):
        if (kind := next((kind for kind in GROUPS if kind in kinds.split(",")), None)) is None:
            continue
        root, limit, usage, cached = GROUPS[kind]
        group = root / path.strip("/")
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(root))):
            least = _least(least, folder, limit, usage, cached)
    return least


def _least(known: Memory, folder: Path, limit: str, usage: str, cached: tuple[str, str]) -> Memory:
    if not (folder / limit).is_file() or (text := (folder / limit).read_text().strip()) == "max":
        return known
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    held = int((folder / usage).read_text()) - sum(int(stat.get(name, 0)) for name in cached)
    return Memory(min(known.total, int(text)), min(known.available, max(0, int(text) - held)))


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _cpuinfo() -> tuple[set[str], str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return set(), platform.processor()
    entries = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in entries.items()}
    return set(fields.get("flags", "").split()), fields.get("model name", platform.machine())
