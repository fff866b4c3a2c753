"""The require stage: may these artifacts be shipped?"""

from __future__ import annotations

from pydantic import Field

from pipeline import paths
from pipeline.benchmark import performance
from pipeline.errors import Rejected
from pipeline.evidence import current, opened
from pipeline.records import Performance, Verdict
from pipeline.records.base import Record


class Fared(Record):
    verdict: str
    performance: str
    reasons: list[str] = Field(
        description="checks that did not pass, and a speed that was asked for and not shown"
    )


class Requirement(Record):
    """What `--json` prints."""

    recipe: str
    passed: bool
    variants: dict[str, Fared]


def run(name: str, variant_name: str | None, as_json: bool = False) -> None:
    """Prints how every variant fared. Raises Rejected unless all (or the named one) passed,
    ArtifactError if out of date."""
    from pipeline.report.terminal import show

    recipe = opened.recipe(name)
    names = [variant_name] if variant_name else list(recipe.variants)
    verdicts = {variant: current.verdict(opened.candidate(name, variant)) for variant in names}
    speeds = {variant: performance.of(recipe, variant) for variant in names}
    rejected = [
        f"{variant} ({verdict.status})"
        for variant, verdict in verdicts.items()
        if verdict.status != "PASS"
    ]
    rejected += [
        f"{variant} ({speed.reason})"
        for variant, speed in speeds.items()
        if verdicts[variant].status == "PASS" and speed.status in performance.REJECTED
    ]
    if as_json:
        fared = {variant: _fared(verdicts[variant], speeds[variant]) for variant in names}
        print(Requirement(recipe=name, passed=not rejected, variants=fared).dumps(), end="")
    else:
        show(name, names)
    if rejected:
        raise Rejected(
            f"{name}: not passed: {', '.join(rejected)}. Reasons: {paths.report(name, 'html')}"
        )


def _fared(verdict: Verdict, speed: Performance) -> Fared:
    reasons = [
        f"{check.name}: {check.reason}" for check in verdict.checks if check.status != "PASS"
    ]
    reasons += [f"speed: {speed.reason}"] if speed.status in performance.REJECTED else []
    return Fared(verdict=verdict.status, performance=speed.status, reasons=reasons)
