"""What the server counts, for Prometheus (https://prometheus.io/docs/practices/naming/)."""

from __future__ import annotations

from time import monotonic

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from pipeline.serving.backend import Backend

disable_created_metrics()  # type: ignore[no-untyped-call]
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    def __init__(self, backend: Backend) -> None:
        self._registry = own = CollectorRegistry()
        self._requests = Counter(
            "quantgate_requests", "Answered requests.", ["endpoint", "status"], registry=own
        )
        self.prompt = Counter(
            "quantgate_prompt_tokens", "Tokens of the prompts that were taken.", registry=own
        )
        self.output = Counter(
            "quantgate_generation_tokens", "Tokens that were generated.", registry=own
        )
        self.first = Histogram(
            "quantgate_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            buckets=SECONDS,
            registry=own,
        )
        self.each = Histogram(
            "quantgate_time_per_output_token_seconds",
            "Of the tokens after the first, a request's mean.",
            buckets=TOKEN_SECONDS,
            registry=own,
        )
        for name, text, value in (
            ("requests_running", "Requests that the engine works on.", lambda: backend.running),
            ("requests_waiting", "Requests that wait for a place.", lambda: backend.waiting),
            ("kv_cache_usage_ratio", "Of the KV cache, in use.", lambda: backend.kv_cache_use),
            ("ready", "1 while requests are taken.", lambda: backend.ready),
        ):
            Gauge(f"quantgate_{name}", text, registry=own).set_function(value)

    def answered(self, endpoint: str, status: int) -> None:
        self._requests.labels(endpoint, str(status)).inc()

    def timer(self) -> Timer:
        return Timer(self)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class Timer:
    """Of one request, from its making on."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._start = metrics, monotonic()
        self._first = self._last = 0.0
        self._tokens = 0

    def prompt(self, tokens: int) -> None:
        self._metrics.prompt.inc(tokens)

    def output(self, tokens: int) -> None:
        self._last = monotonic()
        if not self._tokens:
            self._first = self._last
            self._metrics.first.observe(self._first - self._start)
        self._tokens += tokens
        self._metrics.output.inc(tokens)

    def end(self) -> None:
        if self._tokens > 1:
            self._metrics.each.observe((self._last - self._first) / (self._tokens - 1))
