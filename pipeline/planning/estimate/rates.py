"""From work to seconds, at a machine's own speed.

A stage is start-up and other work of one core, which was timed on a core of CORE_FLOPS and is
scaled by this machine's; products, at a share of what the machine reaches in one large product; and
bytes that are read from memory or written to disk."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.planning.estimate.shape import Shape
from pipeline.planning.estimate.workload import Tokens
from pipeline.records import Speed

# float32 products on one core of the machine where the coefficients were measured: an AMD EPYC with
# AVX-512
CORE_FLOPS = 110e9
# What is assumed of a machine that was not measured: that one, with its two cores.
USUAL = Speed(
    cpu="",
    cores=2,
    memory_bytes=0,
    float32_flops=2 * CORE_FLOPS,
    bfloat16_flops=9.4e11,
    memory_bytes_per_s=4e10,
    disk_bytes_per_s=1.4e9,
    others_share=0,
)


class Work(NamedTuple):
    """`serial_s`: seconds of one core; `flops`: of products in float32, spread over all cores;
    `read_bytes`: from memory; `written_bytes`: to disk."""

    serial_s: float = 0.0
    flops: float = 0.0
    read_bytes: float = 0.0
    written_bytes: float = 0.0

    def plus(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def seconds(self, speed: Speed) -> float:
        core = speed.float32_flops / speed.cores / CORE_FLOPS
        memory, disk = (
            self.read_bytes / speed.memory_bytes_per_s,
            self.written_bytes / speed.disk_bytes_per_s,
        )
        return self.serial_s / core + self.flops / speed.float32_flops + memory + disk


def forward(shape: Shape, tokens: Tokens) -> float:
    """Floating-point operations of the products: two for each parameter that a token meets (arXiv
    2001.08361, section 2.1)."""
    return 2 * shape.blocks * (tokens.blocks + tokens.decoded) + 2 * shape.embedding * (
        tokens.rows + tokens.decoded
    )
