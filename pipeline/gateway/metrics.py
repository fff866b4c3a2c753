"""What the gateway counts, for Prometheus (https://prometheus.io/docs/practices/naming/)."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from pipeline.serving.metrics import SECONDS, TOKEN_SECONDS

PREFIX = "quantgate_gateway_"
TIER = ("model", "tier")
WORK = ("model", "tier", "feature")


class Metrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counter, gauge = self._counter, self._gauge
        # `tier` of a request is the one that answered, `cache`, or `none`.
        self.requests = counter("requests", "Answered requests.", *WORK, "status")
        self.tokens = counter("tokens", "Tokens of prompts and answers.", *WORK, "kind")
        self.first = self._histogram(
            "time_to_first_token_seconds", "Of streams, from their arrival.", SECONDS, *WORK
        )
        self.each = self._histogram(
            "time_per_output_token_seconds", "Of the tokens after the first.", TOKEN_SECONDS, *WORK
        )
        self.whole = self._histogram(
            "request_seconds", "From a request's arrival to its end.", SECONDS, "model", "feature"
        )
        self.targets = counter("latency_targets", "Requests with a target.", "model", "met")
        self.responses = counter("http_responses", "All, also what was refused.", "path", "status")
        self.waiting = gauge("requests_waiting", "Requests that are at no server.")
        self.in_flight = gauge("requests_in_flight", "Requests at a server.", *TIER)
        self.ready = gauge("tier_ready", "1 while it is up, be it full.", *TIER)
        self.breaker = gauge("breaker_open", "1 while its failures keep it out.", *TIER)
        self.approved = gauge("approved_until_seconds", "When the approval ends (Unix).", *TIER)
        self.tries = counter("tries", "Requests sent to a server.", *TIER, "outcome")
        self.fallbacks = counter("fallbacks", "Tries after which another tier was asked.", *WORK)
        self.escalations = counter("escalations", "Answers that were not enough.", *WORK, "rule")
        self.cache = counter(
            "cache_requests", "Requests that may be cached.", "model", "feature", "outcome"
        )
        self.cache_bytes = gauge("cache_bytes", "Of kept answers.")
        self.cache_limit = gauge("cache_limit_bytes", "What they may take; 0: unknown.")
        self.refused = counter("refused", "Requests beyond a key's bounds.", "key", "reason")
        self.device = counter("device_seconds", "A server's time, shared by what runs.", *WORK)
        self.cost = counter("cost", "Device seconds x price.", *WORK, "currency")
        self.budget = gauge("budget_share", "Spent of a key's budget.", "key", "bound")

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(PREFIX + name, text, labels, registry=self._registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(PREFIX + name, text, labels, registry=self._registry, buckets=buckets)
