"""`quantgate usage`: what was used and what it cost, by feature; also while the gateway runs."""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
from collections.abc import Iterable
from pathlib import Path

from pipeline.gateway import deploy_file, ledger
from pipeline.gateway.ledger import Use
from pipeline.report import content, terminal
from pipeline.report.content import Cell, cell
from pipeline.report.formatting import fixed, number

COLUMNS = [
    "feature",
    "model",
    "tier",
    "requests#",
    "prompt tokens#",
    "completion tokens#",
    "device s#",
]


def show(path: Path, days: int, as_json: bool) -> None:
    """`path`: deploy.yaml. The JSON has each key by itself. Raises RecipeError, or SetupError for a
    usage file that is missing or none."""
    from rich.console import Console

    deploy = deploy_file.load(path)
    uses = ledger.read(Path(deploy.usage), days)
    if as_json:
        listed = [dataclasses.asdict(use) for use in uses]
        print(json.dumps({"days": days, "currency": deploy.currency, "uses": listed}, indent=2))
        return
    every = _sum([Use("", "sum", "", "", requests=0), *uses])
    table = content.table(
        f"what was used in the last {days} days (UTC)",
        [*COLUMNS, f"cost in {deploy.currency}#"],
        [_row(use) for use in [*_of_all_keys(uses), every]],
    )
    terminal.draw(table, Console())


def _of_all_keys(uses: Iterable[Use]) -> list[Use]:
    places: dict[tuple[str, ...], list[Use]] = {}
    for use in uses:
        places.setdefault((use.feature, use.model, use.tier), []).append(use)
    return [_sum(together) for together in places.values()]


def _sum(uses: Iterable[Use]) -> Use:
    return functools.reduce(operator.add, uses)


def _row(use: Use) -> list[Cell]:
    words = [cell(word) for word in (use.feature, use.model, use.tier)]
    counts = [
        cell(f"{count:,}", count)
        for count in (use.requests, use.prompt_tokens, use.completion_tokens)
    ]
    amounts = [cell(_amount(use.device_s, 1), use.device_s), cell(_amount(use.cost, 4), use.cost)]
    return words + counts + amounts


def _amount(value: float, digits: int) -> str:
    """With so many decimals, or as many as a small one needs."""
    return number(value) if 0 < value < 10 ** (1 - digits) else fixed(value, digits)
