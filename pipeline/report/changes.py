"""One recipe before and after a change: each variant beside itself, in the shape of a comparison.
Pure."""

from __future__ import annotations

from pipeline.records import Check, Comparison, Question, Summary, VariantSummary
from pipeline.report import figures
from pipeline.report.comparison import Entry, concurrency, section
from pipeline.report.formatting import checked, finite, listed

QUALITY = {
    "perplexity_ratio": "Perplexity ratio",
    "mean_kl": "Mean KL",
    "accuracy_drop": "Accuracy drop",
}
DIGITS = 6  # of figures that lie close to each other
TWO_RUNS = (
    "The two runs were timed at different times: the intervals hold the spread within a run, not"
    " what changed around it."
)


def changes(before: Summary, after: Summary) -> Comparison:
    """Two reports of one recipe -> a section a variant; nothing is recommended."""
    sections, differ = [], differing(before, after)
    for name in dict.fromkeys([*before.variants, *after.variants]):
        entries = [
            Entry(f"{name} {when}", report.variants[name])
            for when, report in (("before", before), ("after", after))
            if name in report.variants
        ]
        note = _note([entry.row for entry in entries], name in before.variants)
        sections.append(section(name, f"{differ} {note}".strip(), entries))
    rows = [Entry(name, row) for name, row in after.variants.items()]
    return Comparison(concurrency=concurrency(rows), sections=sections)


def _note(rows: list[VariantSummary], in_before: bool) -> str:
    if len(rows) < 2:
        return (
            f"Only {'before' if in_before else 'after'}: the recipe"
            f" {'no longer has' if in_before else 'did not have'} it."
        )
    sentences = [_made(*rows), _word("Verdict", *(row.verdict.status for row in rows))]
    sentences += [_word("Performance", *(row.performance.status for row in rows))]
    sentences += [sentence for check in _shared(*rows) if (sentence := _check(*check))]
    sentences += [TWO_RUNS]
    return " ".join(filter(None, sentences))


def _made(before: VariantSummary, after: VariantSummary) -> str:
    """Whether it is the same artifact, and what else changed around it."""
    same = before.verdict.candidate_sha256 == after.verdict.candidate_sha256
    changed = [
        f"{name} {old} to {now}" if old else f"{name} {now}"
        for name, (old, now) in _versions(before, after).items()
        if old != now
    ]
    artifact = "The artifact is the same, byte for byte." if same else "Another artifact."
    return artifact + (f" Versions changed: {', '.join(changed)}." if changed else "")


def _versions(before: VariantSummary, after: VariantSummary) -> dict[str, tuple[str | None, str]]:
    """Of the tools that made it and the engine that ran it."""
    old, now = ({**row.manifest.versions, **row.benchmark.versions} for row in (before, after))
    return {name: (old.get(name), version) for name, version in now.items()}


def _word(what: str, before: str, after: str) -> str:
    return (
        f"{what}: {after}, as before."
        if before == after
        else f"{what}: {before} before, {after} now."
    )


def _shared(before: VariantSummary, after: VariantSummary) -> list[tuple[Check, Check]]:
    """The quality checks that both have, in all views and texts."""
    old = {check.name: check for check in before.verdict.checks}
    return [
        (old[check.name], check)
        for check in after.verdict.checks
        if check.name in old and check.kind in QUALITY
    ]


def _check(before: Check, after: Check) -> str:
    """Less is better in all of them. Empty where nothing changed."""
    old, now = (finite(check.value) for check in (before, after))
    if old == now:
        return ""
    question = Question(QUALITY[before.kind], before.view, before.of).name
    change = f"{question}: {checked(before, DIGITS)} before, {checked(after, DIGITS)} now"
    if old is None or now is None:
        return f"{change}."
    if not figures.apart(before, after):
        return f"{change}: the intervals overlap."
    return f"{change}: {'better' if now < old else 'worse'}."


def differing(report: Summary, other: Summary) -> str:
    """A sentence where the two are not of one source or one calibration set; empty where they
    are."""
    different = [
        what
        for what, holds in {
            "source checkpoint": report.checkpoint.files == other.checkpoint.files,
            "calibration samples": report.calibration.sha256 == other.calibration.sha256,
        }.items()
        if not holds
    ]
    return f"The two runs differ in: {listed(different)}." if different else ""
