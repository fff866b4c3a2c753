"""What this machine has: for `quantgate doctor` and beside every measured figure."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psutil

INSTRUCTION_SETS = {
    "avx2": "the least that OpenVINO and vLLM run on",
    "avx512f": "vLLM's and OpenVINO's faster CPU kernels",
    "avx512_vnni": "fast INT8 arithmetic",
    "avx512_bf16": "native bfloat16 arithmetic",
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


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _cpuinfo() -> tuple[set[str], str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return set(), platform.processor()
    entries = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in entries.items()}
    return set(fields.get("flags", "").split()), fields.get("model name", platform.machine())
