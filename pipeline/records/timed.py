"""What was timed: every request of every replay, and what follows from them.

Definitions: TTFT = first token - due. TPOT = (last token - first token) / (tokens - 1). ITL = time
between two tokens of a request. E2E = last token - due. Throughput = tokens of the requests that
succeeded / wall time of the replay. Goodput = requests inside every SLO / wall time. A request that
failed counts as failed and misses every SLO; it is never dropped."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline.records.base import Record, Sealed


class TracedRequest(Record):
    """`arrival` in units of the mean time between arrivals: a replay at r requests per second sends
    it at arrival / r."""

    arrival: float
    prompt: list[int]
    output_tokens: int


class Trace(Record):
    """The requests that every variant is put to; `sha256` is over them and their order."""

    prompts: str
    seed: int
    sha256: str
    requests: list[TracedRequest]


class RequestTiming(Record):
    """One request; seconds since the replay began. `due_s` is when its client sends it: its arrival
    in the open loop, or when a place became free in the closed one. `arrivals_s` are the times at
    which tokens came, one each unless a server sends several at once."""

    due_s: float
    arrivals_s: list[float]
    prompt_tokens: int
    wanted: int
    tokens: int
    error: str | None = None

    @property
    def failed(self) -> bool:
        return self.error is not None or self.tokens != self.wanted

    @property
    def ttft_s(self) -> float:
        return self.arrivals_s[0] - self.due_s

    @property
    def e2e_s(self) -> float:
        return self.arrivals_s[-1] - self.due_s

    @property
    def tpot_s(self) -> float:
        return (self.arrivals_s[-1] - self.arrivals_s[0]) / (self.tokens - 1)

    @property
    def itl_s(self) -> list[float]:
        return [
            later - earlier
            for earlier, later in zip(self.arrivals_s, self.arrivals_s[1:], strict=False)
        ]


class Replay(Record):
    """One pass over the trace: at a fixed number of requests in flight (closed), or at Poisson
    arrivals (open).

    `others_share` is the share of the machine's processor time that went to processes other than
    the engine's."""

    loop: Literal["closed", "open"]
    concurrency: int | None = None
    fraction: float | None = None
    rate_per_s: float | None = None
    repeat: int
    wall_s: float
    others_share: float
    requests: list[RequestTiming]


class Timings(Sealed):
    """The raw data of a benchmark: `replays` by profile."""

    recipe: str
    variant: str
    artifact_sha256: str | None
    replays: dict[str, list[Replay]]


class Estimate(Record):
    """Over repeats: the median of `values` (one a repeat), Student's 95 % interval of their
    geometric mean, and their coefficient of variation. The last three are None below two
    repeats."""

    median: float
    low: float | None
    high: float | None
    cv: float | None
    values: list[float]


class Latency(Record):
    """Milliseconds: the estimate of the median over repeats, and percentiles of all `n` values;
    only those that n supports."""

    estimate: Estimate
    percentiles: dict[str, float]
    n: int


class Level(Record):
    """One load. Figures are None where no request succeeded. `goodput_per_s` is None without
    SLOs."""

    loop: Literal["closed", "open"]
    concurrency: int | None
    fraction: float | None
    rate_per_s: float | None
    requests: int
    failed: int
    errors: list[str]
    ttft_ms: Latency | None
    tpot_ms: Latency | None
    itl_ms: Latency | None
    e2e_ms: Latency | None
    output_tokens_per_s: Estimate
    total_tokens_per_s: Estimate
    requests_per_s: Estimate
    goodput_per_s: Estimate | None
    others_share: float


class Profile(Record):
    """One way to run the artifact: `deployed`, as it serves, or `matched`, at the precision that
    both engines have in common."""

    settings: dict[str, Any]
    load_s: Estimate | None
    peak_memory_bytes: int | None
    levels: list[Level]


class Cost(Record):
    """Of a million tokens, at the highest closed-loop throughput and the given share of time that
    the machine is busy."""

    currency: str
    price_per_hour: float
    utilisation: float
    per_million_output_tokens: float
    per_million_tokens: float


class Benchmark(Sealed):
    """`over` is how the requests reached the engine, `requested` what the recipe said then.
    `notices` say what a reader must know before believing the figures."""

    recipe: str
    variant: str
    engine: str
    over: Literal["in process", "http"]
    measured: bool
    reason: str
    requested: dict[str, Any] = Field(default_factory=dict)
    artifact_sha256: str | None = None
    device: str | None = None
    size_bytes: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, Any] = Field(default_factory=dict)
    trace_sha256: str | None = None
    profiles: dict[str, Profile] = Field(default_factory=dict)
    costs: list[Cost] = Field(default_factory=list)
    notices: list[str] = Field(default_factory=list)


class Performance(Record):
    """Whether a variant is as much faster as the recipe asks. `words` and `reason` are for people.

    FASTER and NOT FASTER are the gate's; FAILED: requests failed or figures are missing; OFF
    TARGET: measured on another device than the variant's own, neither pass nor fail; NOT ASKED: the
    recipe asks for no speedup; BASELINE: an unquantized variant."""

    status: Literal[
        "FASTER", "NOT FASTER", "FAILED", "OFF TARGET", "NOT ASKED", "NOT MEASURED", "BASELINE"
    ]
    reason: str
    concurrency: int | None = None
    speedup: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
