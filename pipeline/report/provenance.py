"""Where the figures come from: source, calibration, limits, machines, versions, settings and hashes."""

from __future__ import annotations

from typing import Any

from pipeline.report.found import NOT_KNOWN, audited, taken_from
from pipeline.report.parts import Cell, Column, Table, cell
from pipeline.report.words import dig, finite, number, percent, setting, size

HIDDEN = ("load_average_1min",)  # a moment's figure; the share of others is measured with each replay


def source(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values that head the page."""
    checkpoint, calibration = summary["checkpoint"], summary["calibration"]
    where = checkpoint["path"] or f"{checkpoint['repo']} at {checkpoint['revision']}"
    parameters = f"{checkpoint['architecture']}, {checkpoint['parameters']:,} parameters, {checkpoint['dtype']}"
    overlap = (
        f"overlap with the evaluation texts {percent(calibration['overlap'], 2)}, limit {percent(calibration['overlap_limit'], 0)}"
    )
    if audited(summary):
        return [("Artifact", audited(summary)), ("Source checkpoint", where), ("Model", parameters)]
    rows = f"{calibration['rows']} rows of {calibration['prompts']}, seed {calibration['seed']}; {overlap}"
    return [("Source checkpoint", where), ("Model", parameters), ("Calibration", rows)]


def limits(summary: dict[str, Any]) -> Table:
    """The recipe's limits; where they depend on the precision, a column each."""
    found = summary["limits"]
    weights = list(dict.fromkeys(name for limit in found.values() if isinstance(limit, dict) for name in limit))
    used = {row["weights"] for row in summary["variants"].values()}
    shown = [name for name in weights if name in used]
    rows = []
    for name, limit in found.items():
        values = [limit.get(weight) for weight in shown] if isinstance(limit, dict) else [limit] * max(len(shown), 1)
        rows.append([cell(name.replace("_", " ")), *(_limit(value) for value in values)])
    return Table(
        "Limits of the gate, by precision of the weights", [Column("Limit"), *(Column(name, True) for name in shown)], rows
    )


def _limit(value: Any) -> Cell:
    if isinstance(value, (list, tuple)):
        return Cell(" to ".join(map(number, value)))
    return cell(number(value), value) if finite(value) is not None else Cell(setting(value))


def machines(summary: dict[str, Any]) -> list[Table]:
    """Every distinct machine on which something was timed, with the variants that were."""
    groups: list[tuple[dict[str, Any], list[str]]] = []
    for name, row in summary["variants"].items():
        machine = {key: value for key, value in (dig(row, "benchmark", "machine") or {}).items() if key not in HIDDEN}
        if not machine:
            continue
        known = next((names for other, names in groups if other == machine), None)
        if known is None:
            groups.append((machine, [name]))
        else:
            known.append(name)
    return [_machine(machine, names) for machine, names in groups]


def _machine(machine: dict[str, Any], names: list[str]) -> Table:
    facts = {
        key.removesuffix("_bytes").replace("_", " "): size(value) if key.endswith("_bytes") else setting(value)
        for key, value in machine.items()
    }
    return _pairs(f"Machine that timed {', '.join(names)}", facts)


def _pairs(caption: str, found: dict[str, str], kind: str = "") -> Table:
    return Table(
        caption, [Column("Name"), Column("Value")], [[cell(name), Cell(value, kind=kind)] for name, value in found.items()]
    )


def versions(summary: dict[str, Any]) -> Table:
    columns = [
        Column("Variant"),
        Column("Engine"),
        Column("Engine's versions"),
        Column("Quantizer's versions"),
        Column("Stored layers"),
    ]
    reference = [
        cell("reference (float32)"),
        cell("torch"),
        cell(setting(summary["reference"].get("versions"))),
        cell(""),
        cell(""),
    ]
    rows = [
        [
            cell(name),
            cell(row["engine"]),
            cell(setting(dig(row, "evaluation", "versions") or {})),
            cell(setting(dig(row, "manifest", "versions") or {}) if row["quantizer"] else "not quantized"),
            cell(setting(dig(row, "manifest", "stored_types") or {})),
        ]
        for name, row in summary["variants"].items()
    ]
    return Table("Versions", columns, [reference, *rows])


def made(row: dict[str, Any]) -> list[Table]:
    """How one variant was made, scored and timed."""
    manifest = row.get("manifest") or {}
    requested, resolved = manifest.get("requested") or {}, manifest.get("resolved") or {}
    settings = {name: (_asked(requested, name), _asked(resolved, name)) for name in dict.fromkeys([*requested, *resolved])}
    columns = [Column("Setting"), Column("Requested"), Column("Resolved")]
    rows = [[cell(name), Cell(asked, kind="text"), Cell(given, kind="text")] for name, (asked, given) in settings.items()]
    found = [_way(manifest["climb"])] if manifest.get("climb") else []
    found += [Table("Quantizer's settings", columns, rows)] if rows else []
    found.append(_pairs("Calibration tokens of each expert", dict(experts(row))))
    for view, given in (dig(row, "evaluation", "settings") or {}).items():
        found.append(_pairs(f"Scored in the view \u201c{view}\u201d with", {key: setting(value) for key, value in given.items()}))
    for profile, timed in (dig(row, "benchmark", "profiles") or {}).items():
        given = {key: setting(value) for key, value in (timed.get("settings") or {}).items()}
        found.append(_pairs(f"Timed in the profile \u201c{profile}\u201d with", given))
    return [table for table in found if table.rows]


def _way(climb: dict[str, Any]) -> Table:
    """The rungs of a ladder that were tried, in order."""
    columns = [Column("Rung"), Column("Outcome"), Column("Size", True), Column("Mean KL at first look (nats)", True),
               Column("Output tokens/s", True), Column("Why")]  # fmt: skip
    rows = [
        [
            cell(step["rung"]),
            cell(step["status"]),
            Cell(size(step["size_bytes"])),
            Cell(number(step["mean_kl"])),
            Cell(number(dig(step, "output_tokens_per_s", "median"))),
            Cell(step["reason"], kind="text"),
        ]
        for step in climb["steps"]
    ]
    order = {None: "in the recipe's order", "smallest": "the smallest first", "fastest": "the fastest first"}[climb["goal"]]
    return Table(f"Way up the ladder, {order}", columns, rows)


def experts(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Of a mixture of experts: each block with the calibration tokens that its experts 0, 1, ... are sent."""
    coverage = dig(row, "manifest", "coverage") or {}
    return [(block, ", ".join(map(str, counts))) for block, counts in coverage.items()]


def _asked(settings: dict[str, Any], name: str) -> str:
    return setting(settings[name]) if name in settings else "\u2013"


def notes(row: dict[str, Any]) -> list[str]:
    manifest = row.get("manifest") or {}
    layers = manifest.get("layers") or {}
    took, memory = number(manifest.get("wall_s"), 3), size(manifest.get("peak_memory_bytes"))
    told = [f"Made by {row['answered_by']} in {took} s with at most {memory} of memory."]
    if place := taken_from(row):
        told = [f"Made elsewhere, taken from {place}. {NOT_KNOWN}"]
    if row["quantizer"]:
        told.append(f"{layers.get('quantized')} of {layers.get('expected')} layers have {row['weights']} weights.")
    if layers.get("skipped"):
        told.append(f"Left out: {', '.join(layers['skipped'])}.")
    return told + remarks(row)


def remarks(row: dict[str, Any]) -> list[str]:
    """What the quantizer and the comparison of weights found worth a reviewer's eye."""
    return [note for part in ("manifest", "evaluation") for note in dig(row, part, "notes") or []]


def hashes(summary: dict[str, Any]) -> Table:
    """SHA-256 of what was compared: enough to know that two reports are about the same things."""
    found = {} if audited(summary) else {"calibration samples": dig(summary, "calibration", "sha256")}
    for name, row in summary["variants"].items():
        found["reference"] = dig(row, "verdict", "reference_sha256")
        found[f"artifact {name}"] = dig(row, "verdict", "candidate_sha256")
        found["trace of requests"] = dig(row, "benchmark", "trace_sha256") or found.get("trace of requests")
    files = {f"source file {file['path']}": file["sha256"] for file in summary["checkpoint"].get("files") or []}
    return _pairs("SHA-256", {name: str(value) for name, value in {**found, **files}.items() if value}, "hash")
