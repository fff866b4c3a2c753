"""The report as Markdown: what a reviewer reads first comes first."""

from __future__ import annotations

from typing import Any

from pipeline.records import Question
from pipeline.report import markdown_comparison, markdown_speed
from pipeline.report.found import audited, looks, taken_from
from pipeline.report.markdown_parts import megabytes, table, times
from pipeline.report.provenance import remarks


def render(summary: dict[str, Any]) -> str:
    parts = [
        f"# {summary['recipe']}",
        _source(summary),
        "## Verdicts",
        _verdicts(summary),
        "## Quality",
        "Perplexity per token and bits per byte of the whole text as served; accuracy with its standard error. The reference is "
        "the source checkpoint in float32.",
        _quality(summary),
        "## Distance from the reference",
        "`deployed` is the engine as it serves, `weights` the same artifact in float32. KL in nats per token over the full "
        "vocabulary; the last two columns bound the change of the true token's probability at 98 % of the positions.",
        _divergence(summary),
        *_long_context(summary),
        "## Items that changed",
        "Each item is compared with itself under the reference. Recovery is accuracy above chance over the reference's; p is "
        "McNemar's exact test.",
        _items(summary),
        "## Where the artifact differs most",
        "The position with the largest KL of each variant, as served. All of the twenty worst are in the JSON report.",
        _worst(summary),
        *markdown_comparison.render(summary["comparison"]),
        "## Speed",
        *markdown_speed.render(summary),
        "## What produced it",
        _provenance(summary),
    ]
    return "\n\n".join(parts) + "\n"


def _source(summary: dict[str, Any]) -> str:
    checkpoint, calibration = summary["checkpoint"], summary["calibration"]
    where = checkpoint["path"] or f"{checkpoint['repo']} at {checkpoint['revision']}"
    source = f"Source: `{where}`, {checkpoint['architecture']}, {checkpoint['parameters']:,} parameters ({checkpoint['dtype']})."
    if audited(summary):
        return f"**{audited(summary)}** {source}"
    return (
        f"{source} Calibration: {calibration['rows']} rows from `{calibration['prompts']}`, seed {calibration['seed']}, overlap "
        f"with the evaluation texts {calibration['overlap']:.2%} (limit {calibration['overlap_limit']:.2%})."
    )


def _verdicts(summary: dict[str, Any]) -> str:
    rows = []
    for name, row in summary["variants"].items():
        checks = row["verdict"]["checks"]
        failed = [check for check in checks if check["status"] != "PASS"]
        reasons = "<br>".join(f"{check['status']} {check['name']}: {check['reason']}" for check in failed)
        reasons = (reasons or f"all {len(checks)} checks passed") + looks(row)
        size = [megabytes(row["size_bytes"]), times(row["size_ratio"])]
        rows.append([name, f"**{row['verdict']['status']}**", *size, row["performance"]["status"], reasons])
    return table(["variant", "verdict", "size", "of unquantized", "performance", "reasons"], rows)


def _quality(summary: dict[str, Any]) -> str:
    reference = summary["reference"]
    texts, tasks = list(reference["perplexity"]), list(reference["tasks"])
    rows = [
        [
            name,
            *(_perplexity(row, text) for text in texts),
            *(_accuracy(row["tasks"].get(task)) for task in tasks),
        ]
        for name, row in {"reference": reference, **summary["variants"]}.items()
    ]
    return table(["variant", *(f"perplexity {text} (bits per byte)" for text in texts), *tasks], rows)


def _divergence(summary: dict[str, Any]) -> str:
    rows = []
    for name, row in summary["variants"].items():
        found = {check["name"]: check for check in row["verdict"]["checks"]}
        for tails in row["verdict"]["tails"]:
            place = f"{tails['view']} {tails['text']}"
            kinds = [found.get(f"{kind} {place}") for kind in ("perplexity_ratio", "mean_kl", "p99_kl", "top1_agreement")]
            cells = [_check(check) for check in kinds]
            rows.append([name, tails["view"], tails["text"], *cells, *(f"{tails['quantiles'][q]:+.4f}" for q in ("0.01", "0.99"))])
    head = ["variant", "view", "text", "perplexity ratio", "mean KL", "99th percentile", "same top token", "1 %", "99 %"]
    return table(head, rows)


def _long_context(summary: dict[str, Any]) -> list[str]:
    """Mean KL by position, where the recipe asks for it."""
    found = {
        name: {
            asked.of: check
            for check in row["verdict"]["checks"]
            if (asked := Question.named(check["name"])).kind == "long_context_kl"
        }
        for name, row in summary["variants"].items()
    }
    spans = list(dict.fromkeys(span for checks in found.values() for span in checks))
    if not spans:
        return []
    rows = [[name, *(_check(checks.get(span)) for span in spans)] for name, checks in found.items()]
    return ["Mean KL as deployed, by text and position, up to the longest context served.", table(["variant", *spans], rows)]


def _check(check: dict[str, Any] | None) -> str:
    if check is None:
        return "not measured"
    form = ".5f" if check["name"].startswith("perplexity_ratio") else ".4g"
    return f"{check['value']:{form}} ({check['low']:{form}} to {check['high']:{form}})"


def _items(summary: dict[str, Any]) -> str:
    rows = [
        [
            name,
            task["name"],
            str(task["n"]),
            str(len(task["lost"])),
            str(len(task["won"])),
            f"{task['recovery']:.1%}",
            f"{task['mcnemar_p']:.2g}",
            "" if task["length_ratio"] is None else f"{task['length_ratio']:.3f}",
        ]
        for name, row in summary["variants"].items()
        for task in row["verdict"]["tasks"]
    ]
    return table(["variant", "task", "items", "lost", "won", "recovery", "p", "length ratio"], rows)


def _worst(summary: dict[str, Any]) -> str:
    rows = []
    for name, row in summary["variants"].items():
        for worst in row["worst_tokens"][:1]:
            reference = f"`{worst['reference_top']!r}`, true token {worst['reference_probability']:.3f}"
            ours = f"`{worst['top']!r}`, true token {worst['probability']:.3f}"
            rows.append([name, f"{worst['kl_nats']:.3f}", f"`{worst['context']!r}`", f"`{worst['token']!r}`", reference, ours])
    return table(["variant", "KL", "after", "true token", "reference says", "artifact says"], rows)


def _provenance(summary: dict[str, Any]) -> str:
    rows = []
    for name, row in summary["variants"].items():
        manifest = row["manifest"]
        settings = ", ".join(f"{k}={v}" for k, v in manifest["resolved"].items() if isinstance(v, (str, int, float, bool)))
        rows.append([
            name,
            row["answered_by"],
            ", ".join(f"{count} {kind}" for kind, count in sorted(manifest["stored_types"].items())),
            settings,
            ", ".join(f"{package} {version}" for package, version in manifest["versions"].items()),
            "not known" if taken_from(row) else f"{manifest['wall_s']:.0f} s, {manifest['peak_memory_bytes'] / 1e9:.2f} GB",
            "; ".join(remarks(row)),
        ])  # fmt: skip
    head = ["variant", "made by", "layers", "resolved settings", "versions", "time and peak memory", "notes"]
    return table(head, rows)


def _perplexity(row: dict[str, Any], text: str) -> str:
    return f"{row['perplexity'][text]:.4f} ({row['bits_per_byte'][text]:.4f})" if text in row["perplexity"] else "not measured"


def _accuracy(task: dict[str, Any] | None) -> str:
    return "not measured" if task is None else f"{task['accuracy']:.4f} ± {task['standard_error']:.4f}"
