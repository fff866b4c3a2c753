"""Which quantized variant to serve for which goal, among those that passed, and what the
unquantized ones do; a plain sentence each. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from pipeline.benchmark.performance import REJECTED
from pipeline.records import Advice, VariantSummary
from pipeline.report import figures
from pipeline.report.figures import CLOSEST, SIZE, Figure, Metric
from pipeline.report.formatting import listed, number

NO_PRICE = (
    "No price is known. Add it to the recipe, for instance benchmark: {price: {per_hour: 0.5,"
    " currency: USD}}."
)
NO_FIGURE = "No variant that passed has a figure for this."
THROUGHPUT = Metric("tokens_per_s", "highest throughput", "tokens/s", "higher")
Variants = dict[str, VariantSummary]


class Contender(NamedTuple):
    name: str
    figure: Figure
    row: VariantSummary
    note: str = ""


class Field(NamedTuple):
    """Who has a figure in a metric and may be taken; `out` is who may not, and why."""

    metric: Metric | None
    contenders: list[Contender]
    out: dict[str, str]


def recommend(variants: Variants) -> list[Advice]:
    """One for each goal of a recipe, and one for latency, among the quantized."""
    quantized = {name: row for name, row in variants.items() if row.quantizer is not None}
    return [
        _advice("smallest", _field(quantized, _starting(SIZE.key)), "on disk"),
        _advice("fastest", _field(quantized, _throughput)),
        _advice(
            "cheapest",
            _field(quantized, _starting("cost_per")),
            "for a million output tokens",
            NO_PRICE,
        ),
        _advice("closest", _field(quantized, _mean_kl)),
        _advice(
            "lowest latency",
            _field(quantized, _starting("e2e_ms_at_")),
            "for a whole request (E2E)",
        ),
    ]


def baselines(variants: Variants) -> list[Advice]:
    """Between engines, where more than one ran the unquantized model."""
    unquantized = {name: row for name, row in variants.items() if row.quantizer is None}
    if len(unquantized) < 2:
        return []
    return [_advice("fastest unquantized", _field(unquantized, _throughput))]


def unfit(row: VariantSummary) -> str:
    """Why a variant may not be recommended; empty where it may."""
    if not row.passed:
        return f"its verdict is {row.verdict.status}"
    return (
        f"{row.performance.status}: {row.performance.reason}"
        if row.performance.status in REJECTED
        else ""
    )


Taken = tuple[Metric, Figure, str] | None


def _starting(prefix: str) -> Callable[[VariantSummary], Taken]:
    """The figure of the metric whose key starts so."""

    def take(row: VariantSummary) -> Taken:
        known = figures.of(row, "deployed")
        return next(
            (
                (metric, figure, "")
                for metric, figure in known.items()
                if metric.key.startswith(prefix)
            ),
            None,
        )

    return take


def _throughput(row: VariantSummary) -> Taken:
    """At the concurrency where it gives most."""
    level = figures.best_level(row)
    return (
        (THROUGHPUT, figures.throughput(level), f" at concurrency {level.concurrency}")
        if level
        else None
    )


def _mean_kl(row: VariantSummary) -> Taken:
    check = row.mean_kl
    return (CLOSEST, Figure(check.value, check.low, check.high), "") if check else None


def _field(variants: Variants, take: Callable[[VariantSummary], Taken]) -> Field:
    """Rows that were timed elsewhere than the others cannot be compared with them."""
    out = {name: why for name, row in variants.items() if (why := unfit(row))}
    fit = {name: row for name, row in variants.items() if name not in out}
    taken = {name: measured for name, row in fit.items() if (measured := take(row))}
    metric = next((metric for metric, *_ in taken.values()), None)
    timings = {name: figures.timing(fit[name]) for name in taken}
    usual = max(timings.values(), key=list(timings.values()).count, default=None)
    for name, (of, figure, _) in taken.items():
        if of.timed and (here := timings[name]) and usual and here != usual:
            out[name] = figures.elsewhere(here, usual)
        elif figure.bar:
            out[name] = figure.bar
    out |= {name: "it was not timed" for name in fit if name not in taken and taken}
    candidates = [
        Contender(name, figure, fit[name], note + _off_target(fit[name], of))
        for name, (of, figure, note) in taken.items()
        if name not in out
    ]
    return Field(metric, candidates, out)


def _off_target(row: VariantSummary, metric: Metric) -> str:
    """A variant for another device was timed here too; a reader must know."""
    return (
        f" ({row.performance.reason})"
        if row.performance.status == "OFF TARGET" and metric.timed
        else ""
    )


def _advice(goal: str, field: Field, what: str = "", missing: str = NO_FIGURE) -> Advice:
    metric, candidates = field.metric, field.contenders
    out = "".join(f" Left out: {name} ({why.rstrip('.')})." for name, why in field.out.items())
    if metric is None or not candidates:
        return Advice(
            goal=goal, variant=None, reason=(missing if metric is None else NO_FIGURE) + out
        )
    best, *rest = sorted(
        candidates, key=lambda one: one.figure.median, reverse=metric.better == "higher"
    )
    alike = [one for one in rest if not figures.better(metric, best.figure, one.figure)]
    behind = [one for one in rest if one not in alike]
    if not alike:
        runner_up = (
            f"next is {_with_figure(metric, rest[0])}"
            if rest
            else "no other can be compared with it"
        )
        return Advice(
            goal=goal,
            variant=best.name,
            reason=f"{_with_figure(metric, best, what)}; {runner_up}.{out}",
        )
    chosen, why = _between(metric, [best, *alike])
    leaders = listed(
        [_with_figure(metric, best, what), *(_with_figure(metric, one) for one in alike)]
    )
    ahead = f" Behind: {listed([_with_figure(metric, one) for one in behind])}." if behind else ""
    tied = [one.name for one in (best, *alike) if one is not chosen]
    return Advice(
        goal=goal,
        variant=chosen.name,
        tied=tied,
        reason=f"{leaders} cannot be told apart; {why}.{ahead}{out}",
    )


def _between(metric: Metric, tied: list[Contender]) -> tuple[Contender, str]:
    """Of those that the goal cannot tell apart the closest to the original, or the smallest where
    that is the goal."""
    if metric is CLOSEST:
        chosen = min(tied, key=lambda one: one.row.size_bytes)
        sizes = listed([number(one.row.size_bytes / 1e6) for one in tied if one is not chosen])
        return (
            chosen,
            f"{chosen.name} is smaller: {number(chosen.row.size_bytes / 1e6)} MB against {sizes}",
        )
    chosen = min(tied, key=_distance)
    others = listed([number(_distance(one)) for one in tied if one is not chosen])
    return (
        chosen,
        (
            f"{chosen.name} has the better quality: mean KL {number(_distance(chosen))} against"
            f" {others}"
        ),
    )


def _distance(one: Contender) -> float:
    check = one.row.mean_kl
    return math.inf if check is None else check.value


def _with_figure(metric: Metric, one: Contender, what: str = "") -> str:
    return (
        f"{one.name} with {figures.text(metric, one.figure)}{' ' if what else ''}{what}{one.note}"
    )
