"""Replays -> levels: estimates over repeats with their uncertainty; failures counted, never
dropped. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from statistics import fmean, median, stdev

from scipy.stats import t as student

from pipeline.errors import EvaluationError
from pipeline.recipe import Price, Slo
from pipeline.records import Cost, Estimate, Latency, Level, Profile, Replay, RequestTiming

CONFIDENCE = 0.95
# The least number of values whose highest is beyond the percentile with 95 % confidence: 1 - p**n
# >= 0.95.
SUPPORT = {"p50": 5, "p90": 29, "p95": 59, "p99": 299}
STEADY_CV = 0.05
QUIET_SHARE = 0.05


def levels(replays: list[Replay], slo: Slo | None) -> list[Level]:
    """One level a load, in the order measured; a load is what its repeats have in common."""
    loads: dict[tuple[str, int | None, float | None], list[Replay]] = {}
    for replay in replays:
        loads.setdefault((replay.loop, replay.concurrency, replay.fraction), []).append(replay)
    return [_level(repeats, slo) for repeats in loads.values()]


def _level(repeats: list[Replay], slo: Slo | None) -> Level:
    requests = [request for replay in repeats for request in replay.requests]
    good = [[request for request in replay.requests if not request.failed] for replay in repeats]

    def rates(count: Callable[[RequestTiming], float]) -> Estimate:
        return estimate(
            [
                sum(map(count, kept)) / replay.wall_s
                for replay, kept in zip(repeats, good, strict=True)
            ]
        )

    return Level(
        loop=repeats[0].loop,
        concurrency=repeats[0].concurrency,
        fraction=repeats[0].fraction,
        rate_per_s=repeats[0].rate_per_s,
        requests=len(requests),
        failed=sum(request.failed for request in requests),
        errors=sorted({_error(request) for request in requests if request.failed}),
        ttft_ms=_latency(good, lambda request: [request.ttft_s]),
        tpot_ms=_latency(good, lambda request: [request.tpot_s]),
        itl_ms=_latency(good, lambda request: request.itl_s),
        e2e_ms=_latency(good, lambda request: [request.e2e_s]),
        output_tokens_per_s=rates(lambda request: request.tokens),
        total_tokens_per_s=rates(lambda request: request.prompt_tokens + request.tokens),
        requests_per_s=rates(lambda request: 1),
        goodput_per_s=rates(lambda request: meets(request, slo)) if slo else None,
        others_share=max(replay.others_share for replay in repeats),
    )


def _error(request: RequestTiming) -> str:
    return request.error or f"{request.tokens} tokens came, {request.wanted} were asked for"


def meets(request: RequestTiming, slo: Slo) -> bool:
    """Whether a request that succeeded is inside every SLO."""
    pairs = (
        (request.ttft_s, slo.ttft_ms),
        (request.tpot_s, slo.tpot_ms),
        (request.e2e_s, slo.e2e_ms),
    )
    return all(limit is None or 1000 * seconds <= limit for seconds, limit in pairs)


def estimate(values: Iterable[float]) -> Estimate:
    """Of one value a repeat. Student's interval of the mean logarithm: times and rates are positive
    and skewed to the right.

    Where a repeat has a rate of zero (every request failed, or missed its SLO) there is no
    logarithm: of the plain mean then."""
    values = list(values)
    n, mean = len(values), fmean(values)
    if n < 2:
        return Estimate(median=mean, low=None, high=None, cv=None, values=values)
    logarithmic = min(values) > 0
    scale = [math.log(value) for value in values] if logarithmic else values
    half = float(student.ppf((1 + CONFIDENCE) / 2, n - 1)) * stdev(scale) / math.sqrt(n)
    low, high = fmean(scale) - half, fmean(scale) + half
    if logarithmic:
        low, high = math.exp(low), math.exp(high)
    cv = stdev(values) / mean if mean else None
    return Estimate(median=median(values), low=max(0.0, low), high=high, cv=cv, values=values)


def _latency(
    repeats: list[list[RequestTiming]], of: Callable[[RequestTiming], list[float]]
) -> Latency | None:
    """Milliseconds; None where no request succeeded in some repeat, since that repeat then has no
    median."""
    each = [[1000 * value for request in kept for value in of(request)] for kept in repeats]
    if not all(each):
        return None
    values = sorted(itertools.chain.from_iterable(each))
    return Latency(
        estimate=estimate(map(median, each)), percentiles=percentiles(values), n=len(values)
    )


def percentiles(values: list[float]) -> dict[str, float]:
    """Nearest-rank percentiles of sorted values, those that so many values can support."""
    return {
        name: values[math.ceil(int(name[1:]) / 100 * len(values)) - 1]
        for name, n in SUPPORT.items()
        if len(values) >= n
    }


def costs(profile: Profile, price: Price | None) -> list[Cost]:
    """Price / tokens of an hour, at the closed-loop level of the highest throughput; none without a
    price or a token."""
    best = max(closed_levels(profile), key=lambda level: level.output_tokens_per_s.median)
    if price is None or not best.output_tokens_per_s.median:
        return []
    return [
        Cost(
            currency=price.currency,
            price_per_hour=price.per_hour,
            utilisation=share,
            per_million_output_tokens=_per_million(price, share, best.output_tokens_per_s),
            per_million_tokens=_per_million(price, share, best.total_tokens_per_s),
        )
        for share in price.utilisations
    ]


def _per_million(price: Price, utilisation: float, rate: Estimate) -> float:
    return price.per_hour * 1e6 / (3600 * rate.median * utilisation)


def highest_rate(closed: list[Replay]) -> float:
    """Requests per second that succeeded, at the load that served most of them. Raises
    EvaluationError if none did."""
    measured = levels(closed, None)
    rate = max(level.requests_per_s.median for level in measured)
    if not rate:
        raise EvaluationError(f"benchmark: every request failed: {'; '.join(measured[0].errors)}")
    return rate


def closed_levels(profile: Profile) -> list[Level]:
    return [level for level in profile.levels if level.loop == "closed"]


def notices(profiles: dict[str, Profile]) -> list[str]:
    """What a reader must know: a machine that was busy, repeats that scatter, requests that
    failed."""
    texts = []
    for name, profile in profiles.items():
        for level in profile.levels:
            place = f"{name}, {label(level)}"
            if level.others_share > QUIET_SHARE:
                texts.append(
                    f"{place}: other processes took {level.others_share:.0%} of the machine's"
                    " processor time"
                )
            if (level.output_tokens_per_s.cv or 0) > STEADY_CV:
                cv = f"{level.output_tokens_per_s.cv:.0%}"
                texts.append(
                    f"{place}: throughput scatters between repeats (coefficient of variation {cv})"
                )
            if level.failed:
                texts.append(
                    f"{place}: {level.failed} of {level.requests} requests failed:"
                    f" {'; '.join(level.errors)}"
                )
    return texts


def label(level: Level) -> str:
    if level.loop == "closed":
        return f"concurrency {level.concurrency}"
    return (
        f"Poisson arrivals, {level.rate_per_s:.3g} requests/s ({level.fraction:.0%} of the maximum)"
    )
