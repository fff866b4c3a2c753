"""Which variant to serve for which goal, among those that passed; a plain sentence each. Pure."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from pipeline.benchmark.performance import REJECTED
from pipeline.report import measures
from pipeline.report.measures import SIZE, Figure, Metric
from pipeline.report.words import listed, number

NO_PRICE = "No price is known. Add it to the recipe, for instance benchmark: {price: {per_hour: 0.5, currency: USD}}."
THROUGHPUT = Metric("tokens_per_s", "highest throughput", "tokens/s", "higher")


class Candidate(NamedTuple):
    name: str
    figure: Figure
    mean_kl: float
    note: str = ""


def recommend(variants: dict[str, Any]) -> list[dict[str, Any]]:
    """For each goal {"goal", "variant" or None, "reason"}."""
    out = {name: why for name, row in variants.items() if (why := _unfit(row))}
    fit = {name: row for name, row in variants.items() if name not in out}
    return [
        _recommendation("lowest latency", _measured(fit, "e2e_ms_at_", out), "for a whole request (E2E)"),
        _recommendation("highest throughput", _throughput(fit, out)),
        _recommendation("smallest", _measured(fit, SIZE.key, out), "on disk"),
        _recommendation("cheapest per token", _measured(fit, "cost_per", out), "for a million output tokens", NO_PRICE),
    ]


def _unfit(row: dict[str, Any]) -> str:
    """Why a variant may not be recommended; empty where it may."""
    verdict, speed = row["verdict"]["status"], row["performance"]
    if verdict != "PASS":
        return f"its verdict is {verdict}"
    return f"{speed['status']}: {speed['reason']}" if speed["status"] in REJECTED else ""


class Found(NamedTuple):
    """The metric, and who has a figure for it; `out` is who was left out and why."""

    metric: Metric | None
    candidates: list[Candidate]
    out: dict[str, str]


def _measured(fit: dict[str, Any], prefix: str, out: dict[str, str]) -> Found:
    metric, figures = None, {}
    for name, row in fit.items():
        for key, figure in measures.figures(row, "deployed").items():
            if key.key.startswith(prefix):
                metric, figures[name] = key, figure
    return _found(metric, fit, figures, {}, out)


def _throughput(fit: dict[str, Any], out: dict[str, str]) -> Found:
    """Each variant at the concurrency where it gives most."""
    figures, notes = {}, {}
    for name, row in fit.items():
        profile = row["benchmark"]["profiles"].get("deployed")
        level = measures.best_level(profile) if profile else None
        if level:
            figures[name], notes[name] = measures.throughput(level), f" at concurrency {level['concurrency']}"
    return _found(THROUGHPUT, fit, figures, notes, out)


def _found(
    metric: Metric | None, fit: dict[str, Any], figures: dict[str, Figure], notes: dict[str, str], out: dict[str, str]
) -> Found:
    """Rows that were timed elsewhere than the others cannot be compared with them."""
    barred = dict(out)
    places = {name: measures.place(fit[name]) for name in figures}
    usual = max(places.values(), key=list(places.values()).count, default=None)
    for name, figure in figures.items():
        if metric and metric.timed and (here := places[name]) and usual and here != usual:
            barred[name] = measures.place_words(here, usual)
        elif figure.bar:
            barred[name] = figure.bar
    barred |= {name: "it was not timed" for name in fit if name not in figures and figures}
    candidates = [
        Candidate(name, figure, _distance(fit[name]), notes.get(name, "") + _elsewhere(fit[name], metric))
        for name, figure in figures.items()
        if name not in barred
    ]
    return Found(metric, candidates, barred)


def _distance(row: dict[str, Any]) -> float:
    found = measures.quality(row, "deployed")["mean_kl"]
    return math.inf if found is None else found


def _elsewhere(row: dict[str, Any], metric: Metric | None) -> str:
    """A variant for another device was timed here too; a reader must know."""
    off = row["performance"]["status"] == "OFF TARGET" and metric is not None and metric.timed
    return f" ({row['performance']['reason']})" if off else ""


def _recommendation(goal: str, found: Found, what: str = "", missing: str = "") -> dict[str, Any]:
    metric, candidates = found.metric, found.candidates
    out = "".join(f" Left out: {name} ({why.rstrip('.')})." for name, why in found.out.items())
    if metric is None or not candidates:
        reason = missing if metric is None and missing else "No variant that passed has a figure for this."
        return {"goal": goal, "variant": None, "reason": reason + out}
    best, *rest = sorted(candidates, key=lambda one: one.figure.median, reverse=metric.better == "higher")
    if not rest:
        return {
            "goal": goal,
            "variant": best.name,
            "reason": f"{_told(metric, best, what)}; no other can be compared with it.{out}",
        }
    alike = [one for one in rest if not measures.better(metric, best.figure, one.figure)]
    if not alike:
        reason = f"{_told(metric, best, what)}; next is {_told(metric, rest[0])}.{out}"
        return {"goal": goal, "variant": best.name, "reason": reason}
    chosen = min((best, *alike), key=lambda one: one.mean_kl)
    told = listed([_told(metric, best, what), *(_told(metric, one) for one in alike)])
    why = f"{told} cannot be told apart; {chosen.name} has the better quality: mean KL {number(chosen.mean_kl)}"
    return {"goal": goal, "variant": chosen.name, "reason": f"{why} against {_others(chosen, best, alike)}.{out}"}


def _told(metric: Metric, one: Candidate, what: str = "") -> str:
    return f"{one.name} with {measures.text(metric, one.figure)}{' ' if what else ''}{what}{one.note}"


def _others(chosen: Candidate, best: Candidate, alike: list[Candidate]) -> str:
    return listed([number(one.mean_kl) for one in (best, *alike) if one.name != chosen.name])
