"""The tables of the page: verdicts, comparisons, quality, and the items whose answers changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.report import parts
from pipeline.report.found import audited, highest_concurrency, levels, looks, throughput
from pipeline.report.parts import Cell, Column, Table, cell
from pipeline.report.words import MISSING, dig, estimate, finite, fixed, listed, number, percent, size, times

PERFORMANCE = {
    "FASTER": ("faster", "pass"),
    "NOT FASTER": ("not faster", "open"),
    "FAILED": ("requests failed or figures are missing", "fail"),
    "OFF TARGET": ("not measured on its target", "open"),
    "NOT ASKED": ("no speedup asked for", "none"),
    "NOT MEASURED": ("not measured", "none"),
    "BASELINE": ("baseline of its engine", "none"),
}


def performance(status: str | None, verdict: str) -> Cell:
    """In words; that a variant is accurate but no faster is said as one."""
    words, kind = PERFORMANCE.get(status or "NOT MEASURED", (str(status).lower(), "none"))
    if status == "NOT FASTER" and verdict == "PASS":
        words = "accurate but not faster"
    return Cell(words, kind=f"badge {kind}")


def headline(summary: dict[str, Any]) -> str:
    """The page in a sentence or two."""
    rows = summary["variants"]
    verdicts = {
        word: [name for name, row in rows.items() if row["verdict"]["status"] == word] for word in ("PASS", "FAIL", "INCONCLUSIVE")
    }
    told = ["An audit: quantgate did not make this artifact."] if audited(summary) else []
    told.append(f"{len(verdicts['PASS'])} of {len(rows)} variants passed the accuracy gate.")
    if verdicts["FAIL"]:
        told.append(f"Failed: {listed(verdicts['FAIL'])}.")
    if verdicts["INCONCLUSIVE"]:
        told.append(f"Inconclusive, which is not a pass: {listed(verdicts['INCONCLUSIVE'])}.")
    faster = [name for name in verdicts["PASS"] if dig(rows[name], "performance", "status") == "FASTER"]
    slower = [name for name in verdicts["PASS"] if dig(rows[name], "performance", "status") == "NOT FASTER"]
    if faster:
        told.append(f"Accurate and faster than unquantized on the same engine: {listed(faster)}.")
    if slower:
        told.append(f"Accurate but not faster: {listed(slower)}.")
    return " ".join(told)


def verdicts(summary: dict[str, Any]) -> Table:
    concurrency = highest_concurrency(summary)
    speed = "Output tokens/s" if concurrency is None else f"Output tokens/s at concurrency {concurrency}"
    columns = [Column("Variant"), Column("Accuracy"), Column("Performance"), Column("Size", True), Column("Of unquantized", True),
               Column(speed, True), Column("Made by")]  # fmt: skip
    rows = [
        [
            cell(name),
            parts.status(row["verdict"]["status"]),
            performance(dig(row, "performance", "status"), row["verdict"]["status"]),
            cell(size(row.get("size_bytes")), row.get("size_bytes")),
            cell(percent(row.get("size_ratio"), 0), row.get("size_ratio")),
            cell(estimate(throughput(row, concurrency)), dig(throughput(row, concurrency), "median")),
            cell(f"{row['weights']} by {row['answered_by']}" if row["quantizer"] else f"unquantized, {row['weights']}"),
        ]
        for name, row in summary["variants"].items()
    ]
    return Table("Verdict of each variant", columns, rows, "stacked")


def findings(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Per variant: what stood in the way of a pass, and why its performance was judged as it was."""
    return [_finding(name, row) for name, row in summary["variants"].items()]


def _finding(name: str, row: dict[str, Any]) -> dict[str, Any]:
    checks = row["verdict"]["checks"]
    missed = [check for check in checks if check["status"] != "PASS"]
    measured, why = dig(row, "benchmark", "measured"), dig(row, "benchmark", "reason") or "no record"
    return {
        "variant": name,
        "verdict": parts.status(row["verdict"]["status"]),
        "passed": f"{len(checks) - len(missed)} of {len(checks)} checks passed.{looks(row)}",
        "checks": [{**check, "badge": parts.status(check["status"])} for check in missed],
        "performance": dig(row, "performance", "reason") or "",
        "benchmark": "" if measured else f"Not benchmarked: {why}",
    }


def comparison(section: dict[str, Any]) -> Table:
    """One column a variant, one row a metric, with the winner marked: read across."""
    columns = [Column("Metric"), *(Column(row["variant"], True) for row in section["rows"]), Column("Best")]
    facts: list[tuple[str, Callable[[dict[str, Any]], Cell]]] = [
        ("Engine", lambda row: cell(row["engine"])),
        ("Weights", lambda row: cell(row["weights"])),
        ("Accuracy verdict", lambda row: parts.status(row["verdict"])),
        ("Performance", lambda row: performance(row["performance"], row["verdict"])),
        ("Perplexity ratio", lambda row: cell(fixed(dig(row, "quality", "perplexity_ratio"), 4))),
        ("Mean KL, nats", lambda row: cell(number(dig(row, "quality", "mean_kl"), 3))),
        ("Accuracy drop", lambda row: cell(percent(dig(row, "quality", "accuracy_drop"), 2, signed=True))),
    ]
    rows = [[cell(title), *(fact(row) for row in section["rows"]), cell("")] for title, fact in facts]
    return Table(section["title"], columns, [*rows, *(_compared(metric, section) for metric in section["metrics"])], "across")


def _compared(metric: dict[str, Any], section: dict[str, Any]) -> list[Cell]:
    key = metric["key"]
    winner = section["winners"].get(key)
    cells = []
    for row in section["rows"]:
        value = row["values"].get(key)
        bounds = "" if finite(dig(value, "low")) is None else f"{number(value['low'])} to {number(value['high'])}"
        cells.append(Cell(number(dig(value, "median")), kind="best" if row["variant"] == winner else "", note=bounds))
    best = Cell(winner) if winner else Cell("no winner", kind="muted")
    return [Cell(metric["title"], note=f"{metric['unit']}, {metric['better']} is better"), *cells, best]


def reasons(section: dict[str, Any]) -> list[tuple[str, str]]:
    """Of each metric, why it has its winner, or none."""
    return [(metric["title"], section["reasons"].get(metric["key"]) or "not said") for metric in section["metrics"]]


def quality(summary: dict[str, Any]) -> list[Table]:
    """Perplexity of the whole texts and accuracy of each task, the reference first."""
    every = {"reference (float32)": summary["reference"], **summary["variants"]}
    texts, tasks = list(summary["reference"]["perplexity"]), list(summary["reference"]["tasks"])
    head = [Column(f"{text}: {what}", True) for text in texts for what in ("perplexity", "bits per byte")]
    found = []
    if texts:
        rows = [[cell(name), *(figure for text in texts for figure in _perplexity(row, text))] for name, row in every.items()]
        found.append(Table("Perplexity of the whole texts as served", [Column("Variant"), *head], rows))
    if tasks:
        rows = [[cell(name), *(_accuracy(row["tasks"].get(task)) for task in tasks)] for name, row in every.items()]
        found.append(Table("Accuracy with its standard error", [Column("Variant"), *(Column(task, True) for task in tasks)], rows))
    return found


def _perplexity(row: dict[str, Any], text: str) -> list[Cell]:
    values = [row["perplexity"].get(text), row["bits_per_byte"].get(text)]
    return [cell(fixed(value, 4), value) for value in values]


def _accuracy(task: dict[str, Any] | None) -> Cell:
    value, error = finite(dig(task, "accuracy")), finite(dig(task, "standard_error"))
    return cell(percent(value) if value is None or error is None else f"{percent(value)} \u00b1 {percent(error)}", value)


def changed_tasks(summary: dict[str, Any]) -> Table:
    """How many items each variant lost and won."""
    columns = [
        Column("Variant"),
        Column("Task"),
        *(Column(title, True) for title in ("Items", "Lost", "Won", "Recovery", "p (McNemar)", "Length")),
    ]
    rows = [
        [
            cell(name),
            cell(task["name"]),
            cell(f"{task['n']:,}", task["n"]),
            cell(str(len(task["lost"])), len(task["lost"])),
            cell(str(len(task["won"])), len(task["won"])),
            cell(percent(task["recovery"]), task["recovery"]),
            cell(number(task["mcnemar_p"], 2), task["mcnemar_p"]),
            cell("\u2013" if task["length_ratio"] is None else times(task["length_ratio"]), task["length_ratio"]),
        ]
        for name, row in summary["variants"].items()
        for task in row["verdict"]["tasks"]
    ]
    return Table("Items that each variant lost and won against the reference", columns, rows)


def flipped(row: dict[str, Any]) -> Table | None:
    """The items themselves, the lost ones first; None where no answer changed."""
    items = row.get("flipped")
    if items is None:
        items = [
            {"task": name.rpartition("/")[0], "doc_id": name.rpartition("/")[2], "lost": lost, "text": ""}
            for task in row["verdict"]["tasks"]
            for lost, names in ((True, task["lost"]), (False, task["won"]))
            for name in names
        ]
    if not items:
        return None
    columns = [Column("Item"), Column("Change"), Column("Question and right answer")]
    rows = [
        [
            cell(f"{item['task']}/{item['doc_id']}"),
            Cell("lost" if item["lost"] else "won", kind="badge fail" if item["lost"] else "badge pass"),
            Cell(item["text"] or "text not kept", kind="text" if item["text"] else "muted"),
        ]
        for item in sorted(items, key=lambda item: not item["lost"])
    ]
    return Table("Items whose answer changed", columns, rows)


def worst(row: dict[str, Any]) -> Table | None:
    """The positions that lie furthest from the reference; the style sheet's `tokens` show white space."""
    found = row.get("worst_tokens")
    if not found:
        return None
    columns = [
        Column("Text and place"),
        Column("KL, nats", True),
        Column("After"),
        Column("True token"),
        Column("Its probability", True, "reference, then artifact"),
        Column("Reference said"),
        Column("Artifact said"),
    ]
    rows = [
        [
            cell(f"{token['text']}, window {token['window']}, position {token['position']}"),
            cell(number(token["kl_nats"], 3), token["kl_nats"]),
            Cell(token["context"], kind="context"),
            Cell(token["token"], kind="token"),
            cell(f"{percent(token['reference_probability'])} \u2192 {percent(token['probability'])}", token["probability"]),
            Cell(token["reference_top"], kind="token"),
            Cell(token["top"], kind="token"),
        ]
        for token in found
    ]
    return Table("Positions that differ most, as served", columns, rows)


def http(summary: dict[str, Any]) -> Table | None:
    """In process beside over HTTP, where the latter was measured."""
    rows = []
    for name, row in summary["variants"].items():
        inside = {level["concurrency"]: level for level in levels(row.get("benchmark"))}
        for level in levels(row.get("http")):
            at = level["concurrency"]
            figures = [
                dig(found, *path)
                for path in (("output_tokens_per_s",), ("ttft_ms", "estimate"))
                for found in (inside.get(at), level)
            ]
            rows.append([cell(name), cell(str(at), at), *(cell(estimate(figure), dig(figure, "median")) for figure in figures)])
    if not rows:
        return None
    titles = ("Concurrency", "Output tokens/s in process", "Output tokens/s over HTTP", "TTFT in process, ms", "TTFT over HTTP, ms")
    return Table("In process and over HTTP", [Column("Variant"), *(Column(title, True) for title in titles)], rows)


def notices(summary: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Per variant what a reader must know before believing its speeds."""
    found = []
    for name, row in summary["variants"].items():
        said = [notice for benchmark in (row.get("benchmark"), row.get("http")) for notice in dig(benchmark, "notices") or []]
        if said:
            found.append((name, list(dict.fromkeys(said))))
    return found


def missing_speed(summary: dict[str, Any]) -> list[str]:
    return [
        f"{name}: {MISSING}, {dig(row, 'benchmark', 'reason') or 'no record'}"
        for name, row in summary["variants"].items()
        if not dig(row, "benchmark", "measured")
    ]
