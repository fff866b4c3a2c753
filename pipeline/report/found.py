"""What charts and tables both look up in the summary."""

from __future__ import annotations

from typing import Any

from pipeline.records import Question
from pipeline.report.words import dig, finite

NOT_KNOWN = "Which tool made it, and how, is its files' own word; what it was calibrated on is not known."


def taken_from(row: dict[str, Any]) -> str:
    """Where an artifact lay that quantgate did not make; empty for one that it made."""
    return dig(row, "manifest", "taken_from") or ""


def audited(summary: dict[str, Any]) -> str:
    """Of an audit, what a reader must know first; empty for the report of a recipe."""
    place = next((place for row in summary["variants"].values() if (place := taken_from(row))), "")
    return f"Audited: made elsewhere, taken from {place}. {NOT_KNOWN}" if place else ""


def mean_kl(row: dict[str, Any]) -> dict[str, float | None]:
    """As served, with its interval; of several texts the worst, as in the comparison."""
    checks = [check for check in row["verdict"]["checks"] if Question.named(check["name"])[:2] == ("mean_kl", "deployed")]
    known = [check for check in checks if finite(check["value"]) is not None]
    worst = max(known, key=lambda check: float(check["value"]), default=None)
    return {name: finite(dig(worst, key)) for name, key in (("kl", "value"), ("kl_low", "low"), ("kl_high", "high"))}


def looks(row: dict[str, Any]) -> str:
    """At which number of items the gate looked, and what the accuracy said; nothing where there was one look."""
    said = [
        f"{look['items']:,} items {look['status']} ({look['low']:+.2%} to {look['high']:+.2%})" for look in row["verdict"]["looks"]
    ]
    return f" Looks at the accuracy: {'; '.join(said)}." if said else ""


def levels(benchmark: Any, profile: str = "deployed", loop: str = "closed") -> list[dict[str, Any]]:
    """The loads of one kind that were measured, in order."""
    return [level for level in dig(benchmark, "profiles", profile, "levels") or [] if level["loop"] == loop]


def highest_concurrency(summary: dict[str, Any]) -> int | None:
    """The highest that every variant was timed at that was timed at all."""
    timed = [
        {level["concurrency"] for level in found} for row in summary["variants"].values() if (found := levels(row.get("benchmark")))
    ]
    return max(set.intersection(*timed), default=None) if timed else None


def throughput(row: dict[str, Any], concurrency: int | None) -> Any:
    """The estimate of output tokens/s as served, at a concurrency."""
    found = [level for level in levels(row.get("benchmark")) if level["concurrency"] == concurrency]
    return found[0]["output_tokens_per_s"] if found else None


def profiles(summary: dict[str, Any]) -> list[str]:
    """Every way in which some variant was timed, as served first."""
    names = dict.fromkeys(name for row in summary["variants"].values() for name in dig(row.get("benchmark"), "profiles") or {})
    return sorted(names, key=lambda name: name != "deployed")
