"""The report's first card: which quantized variant to ship for the recipe's goal, in one sentence.
Pure."""

from __future__ import annotations

from pipeline.records import Advice, Ship, VariantSummary
from pipeline.report import figures
from pipeline.report.formatting import TIMES, bounds, checked, listed, number, percent, size
from pipeline.report.recommendation import unfit

Variants = dict[str, VariantSummary]
SPEED_OF = "the speed of unquantized"


def ship(
    goal: str, variants: Variants, advice: list[Advice], baselines: list[Advice]
) -> Ship | None:
    """None where nothing was quantized."""
    quantized = {name: row for name, row in variants.items() if row.quantizer is not None}
    if not quantized:
        return None
    wanted = next(one for one in advice if one.goal == goal)
    if wanted.variant is None:
        return _nothing(goal, quantized, wanted)
    row = quantized[wanted.variant]
    passed = sum(one.passed for one in quantized.values())
    among = (
        f"{passed} quantized variant{'s' if passed > 1 else ''} that passed, of {len(quantized)}"
    )
    facts = [
        f"{_upper(_goal(wanted))} of {among}: {_first(wanted.reason)}",
        *_other_goals(wanted, advice),
        *(f"Unquantized: {_first(one.reason)}" for one in baselines),
        *_unfit(quantized),
    ]
    headline = f"Ship {wanted.variant}: {_size(row)}, mean KL {_kl(row)}, {_speed(row)}."
    return Ship(
        variant=wanted.variant,
        headline=headline,
        facts=facts,
        busy=any(map(figures.busy, row.levels())),
    )


def summed_up(row: VariantSummary) -> str:
    """One variant in a few words: size, distance, speed."""
    return f"{_size(row)}, mean KL {_kl(row)}, {_speed(row)}"


def _nothing(goal: str, quantized: Variants, wanted: Advice) -> Ship:
    if any(not unfit(row) for row in quantized.values()):
        return Ship(
            variant=None, headline=f"No variant can be called the {goal}.", facts=[wanted.reason]
        )
    headline = f"Ship nothing yet: none of {len(quantized)} quantized variants may be."
    nearest = min(
        quantized,
        key=lambda name: sum(check.status != "PASS" for check in quantized[name].verdict.checks),
    )
    missed = [check for check in quantized[nearest].verdict.checks if check.status != "PASS"]
    near = (
        [
            f"Nearest is {nearest}:"
            f" {listed([f'{check.name} ({check.reason})' for check in missed[:2]])}."
        ]
        if missed
        else []
    )
    return Ship(variant=None, headline=headline, facts=[*near, *_unfit(quantized)])


def _size(row: VariantSummary) -> str:
    return (
        size(row.size_bytes)
        if row.size_ratio is None
        else f"{percent(row.size_ratio, 0)} of the size"
    )


def _kl(row: VariantSummary) -> str:
    check = row.mean_kl
    return checked(None) if check is None else number(check.value)


def _speed(row: VariantSummary) -> str:
    """At the heaviest closed load, where serving is paid for; only what the interval shows is
    called a change."""
    if not row.speedup:
        levels = row.levels()
        return (
            f"{number(levels[-1].output_tokens_per_s.median)} tokens/s"
            if levels
            else "speed not measured"
        )
    at = max(row.speedup, key=int)
    speedup = row.speedup[at]
    if speedup.low is None or speedup.high is None:
        return f"{number(speedup.ratio)}{TIMES} {SPEED_OF}, timed once"
    if speedup.low <= 1 <= speedup.high:
        return f"no measurable change of speed ({bounds(speedup)} times)"
    return f"{number(speedup.ratio)}{TIMES} {SPEED_OF} ({bounds(speedup)})"


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _first(reason: str) -> str:
    """Without who was left out, which is said once for all goals."""
    sentence = reason.split(" Left out: ", maxsplit=1)[0]
    return _upper(sentence) if sentence.startswith("no ") else sentence


def _goal(advice: Advice) -> str:
    return f"{advice.goal} (tied with {listed(advice.tied)})" if advice.tied else advice.goal


def _other_goals(wanted: Advice, advice: list[Advice]) -> list[str]:
    """By variant, the one of the card first."""
    by_variant: dict[str, list[str]] = {wanted.variant or "": []}
    for one in advice:
        if one is not wanted and one.variant is not None:
            by_variant.setdefault(one.variant, []).append(_goal(one))
    also = by_variant.pop(wanted.variant or "")
    sentences = [f"It is also {listed(also)}."] if also else []
    return sentences + [
        f"{_upper(listed(goals))}: {variant}." for variant, goals in by_variant.items()
    ]


def _unfit(quantized: Variants) -> list[str]:
    """Who may not be shipped, those with one reason together."""
    by_reason: dict[str, list[str]] = {}
    for name, row in quantized.items():
        if why := unfit(row):
            by_reason.setdefault(why.rstrip("."), []).append(name)
    return [f"Not to be shipped: {listed(names)} ({why})." for why, names in by_reason.items()]
