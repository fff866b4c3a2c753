"""What each try and each request took and cost: to the metrics, the ledger, the log and
the trace."""

from __future__ import annotations

from time import monotonic

from pipeline.gateway import log, traces
from pipeline.gateway.asked import Asked
from pipeline.gateway.attempt import Try
from pipeline.gateway.clients import Clients
from pipeline.gateway.ledger import Ledger, Use
from pipeline.gateway.metrics import Metrics
from pipeline.gateway.tier import Tier
from pipeline.gateway.traces import Traces

HOUR_S = 3600.0
CACHED, NOBODY = "cache", "none"  # who answered, where no tier did


class Accounts:
    def __init__(
        self, metrics: Metrics, ledger: Ledger, clients: Clients, traces: Traces, currency: str
    ) -> None:
        self.metrics, self._ledger, self._currency = metrics, ledger, currency
        self.traces = traces
        self._clients = clients

    def tried(self, tier: Tier, asked: Asked, done: Try, device_s: float) -> None:
        """A try has ended; `device_s`: of the server's time."""
        metrics, place = self.metrics, (tier.model, tier.name)
        work = (*place, asked.feature)
        traces.tried(done)
        cost = done.cost = device_s / HOUR_S * tier.settings.price_per_hour
        metrics.tries.labels(*place, done.end).inc()
        metrics.tokens.labels(*work, "prompt").inc(done.prompt_tokens)
        metrics.tokens.labels(*work, "completion").inc(done.completion_tokens)
        metrics.device.labels(*work).inc(device_s)
        metrics.cost.labels(*work, self._currency).inc(cost)
        if done.first_at is not None:
            metrics.first.labels(*work).observe(done.first_at - asked.arrived)
            if done.completion_tokens > 1:
                each_s = (done.last_at - done.first_at) / (done.completion_tokens - 1)
                metrics.each.labels(*work).observe(each_s)
        self._clients.used(asked.client, done.prompt_tokens + done.completion_tokens)
        self._ledger.add(
            Use(
                key=asked.client.name,
                feature=asked.feature,
                model=tier.model,
                tier=tier.name,
                requests=int(done.end == "answered"),
                prompt_tokens=done.prompt_tokens,
                completion_tokens=done.completion_tokens,
                device_s=device_s,
                cost=cost,
            )
        )

    def went_on(self, tier: Tier, to: Tier, asked: Asked, done: Try) -> None:
        """Another tier is asked after this one's try."""
        work = (tier.model, tier.name, asked.feature)
        if done.rule:
            self.metrics.escalations.labels(*work, done.rule).inc()
        else:
            self.metrics.fallbacks.labels(*work).inc()
        log.event(
            "escalated" if done.rule else "fell back",
            tier,
            to=to.name,
            request=asked.id,
            why=done.rule or f"{done.end}: {done.why}",
            cost=round(done.cost, 9),
            currency=self._currency,
        )

    def ended(self, asked: Asked, place: str, status: int) -> None:
        """A request has its whole answer, or an error. `place`: a tier, CACHED or NOBODY."""
        if place == CACHED and status < 400:
            self._ledger.add(Use(asked.client.name, asked.feature, asked.model, CACHED))
        traces.ended(place, status)
        whole_s = monotonic() - asked.arrived
        metrics, model = self.metrics, asked.model
        metrics.requests.labels(model, place, asked.feature, str(status)).inc()
        metrics.whole.labels(model, asked.feature).observe(whole_s)
        if asked.need.target_ms is not None:
            met = status < 400 and 1000 * whole_s <= asked.need.target_ms
            metrics.targets.labels(model, "yes" if met else "no").inc()
