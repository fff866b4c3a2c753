"""The require stage: may these artifacts be shipped?"""

from __future__ import annotations

from pipeline import paths
from pipeline.benchmark import performance
from pipeline.errors import Rejected
from pipeline.evidence import current, opened


def run(name: str, variant_name: str | None) -> None:
    """Prints how every variant fared. Raises Rejected unless all (or the named one) passed, ArtifactError if out of date."""
    from pipeline.report.terminal import show

    recipe = opened.recipe(name)
    names = [variant_name] if variant_name else list(recipe.variants)
    statuses = {variant: current.verdict(opened.candidate(name, variant)).status for variant in names}
    show(name, names)
    slow = {variant: performance.of(name, recipe, variant) for variant in names}
    rejected = [f"{variant} ({status})" for variant, status in statuses.items() if status != "PASS"]
    rejected += [f"{variant} ({found.reason})" for variant, found in slow.items()
                 if statuses[variant] == "PASS" and found.status in performance.REJECTED]  # fmt: skip
    if rejected:
        raise Rejected(f"{name}: not passed: {', '.join(rejected)}. Reasons: {paths.report(name, 'html')}")
