"""The part of the Markdown report on speed, memory and cost, also of one variant alone (its model card)."""

from __future__ import annotations

from typing import Any

from pipeline.report.markdown_parts import estimate, megabytes, table, times
from pipeline.report.words import number

LATENCIES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "itl_ms": "ITL", "e2e_ms": "E2E"}
DEFINITIONS = (
    "Medians over the repeats with the 95 % interval of their geometric mean. `deployed` is the engine as it serves, `matched` the "
    "same artifact at the precision that both engines have in common. TTFT runs from when a request is due to its first token, "
    "TPOT is the mean time of each further one, E2E runs to the last. Requests that failed count as failed and give no throughput."
)


def render(summary: dict[str, Any]) -> list[str]:
    """The paragraphs of the section."""
    variants: dict[str, Any] = summary["variants"]
    benchmarks = {name: row["benchmark"] for name, row in variants.items()}
    speedups = {name: row["speedup"] for name, row in variants.items()}
    parts = [machines(benchmarks), DEFINITIONS, levels(benchmarks, speedups), "### Was it worth it", performance(variants)]
    parts += titled("### Open loop", open_loop(benchmarks)) + titled("### Latency percentiles", percentiles(benchmarks))
    parts += ["### Loading, memory and size", memory(benchmarks)]
    parts += titled("### Cost", cost(benchmarks)) + titled("### What to know about these figures", notices(benchmarks))
    return parts + http({name: row["http"] for name, row in variants.items() if row["http"] is not None})


def titled(title: str, text: str) -> list[str]:
    return [title, text] if text else []


def machines(benchmarks: dict[str, Any]) -> str:
    """A figure without its machine means nothing; variants timed on different ones are named with theirs."""
    found: dict[str, list[str]] = {}
    for name, benchmark in benchmarks.items():
        if benchmark["machine"]:
            found.setdefault(machine(benchmark), []).append(name)
    return " ".join(f"{', '.join(names)} on {place}." for place, names in found.items())


def machine(benchmark: dict[str, Any]) -> str:
    """Processor and instruction sets, and the device where it is another than the processor."""
    found = benchmark["machine"]
    if not found:
        return "a machine that was not recorded"
    sets = f" ({', '.join(found['instruction_sets'])})" if found.get("instruction_sets") else ""
    device = f", device {benchmark['device']}" if benchmark["device"] not in (None, "cpu") else ""
    return f"{found.get('cpu')}, {found.get('cores')} cores{sets}{device}"


def each_level(benchmarks: dict[str, Any], loop: str) -> list[tuple[list[str], dict[str, Any]]]:
    """Variant and profile, with each level of that loop."""
    return [
        ([name, profile_name], level)
        for name, benchmark in benchmarks.items()
        for profile_name, profile in benchmark["profiles"].items()
        for level in profile["levels"]
        if level["loop"] == loop
    ]


def levels(benchmarks: dict[str, Any], speedups: dict[str, dict[str, float]]) -> str:
    """The closed loop; `speedups` is over the unquantized model on the same engine, by variant and concurrency."""
    rows = []
    for name, benchmark in benchmarks.items():
        if not benchmark["measured"]:
            rows.append([name, "", "", f"not benchmarked: {benchmark['reason']}", *[""] * 6])
        for (_, profile), level in each_level({name: benchmark}, "closed"):
            ratio = speedups.get(name, {}).get(str(level["concurrency"])) if profile == "deployed" else None
            figures = [estimate(level["output_tokens_per_s"]), times(ratio), *_latencies(level), *_kept(level)]
            rows.append([name, profile, str(level["concurrency"]), *figures])
    head = ["variant", "profile", "concurrency", "output tokens/s", "over unquantized", "TTFT", "TPOT", "E2E", "failed", "goodput"]
    return table(head, rows)


def _latencies(level: dict[str, Any]) -> list[str]:
    found = [level[name] for name in ("ttft_ms", "tpot_ms", "e2e_ms")]
    return ["no request succeeded" if latency is None else estimate(latency["estimate"], " ms") for latency in found]


def _kept(level: dict[str, Any]) -> list[str]:
    goodput = "" if level["goodput_per_s"] is None else estimate(level["goodput_per_s"], " requests/s")
    return [f"{level['failed']} of {level['requests']}", goodput]


def open_loop(benchmarks: dict[str, Any]) -> str:
    """Requests that come when they come; empty where the recipe asks for none."""
    rows = [
        [*place, f"{level['rate_per_s']:.3g}/s ({level['fraction']:.0%})", estimate(level["requests_per_s"]), *_latencies(level),
         *_kept(level)]
        for place, level in each_level(benchmarks, "open")
    ]  # fmt: skip
    if not rows:
        return ""
    head = ["variant", "profile", "Poisson arrivals (of its own highest rate)", "requests/s", "TTFT", "TPOT", "E2E", "failed"]
    return table([*head, "goodput"], rows)


def percentiles(benchmarks: dict[str, Any]) -> str:
    """Only those that the number of requests can support; empty where it supports none."""
    rows = []
    for name, benchmark in benchmarks.items():
        for place, level in [*each_level({name: benchmark}, "closed"), *each_level({name: benchmark}, "open")]:
            load = str(level["concurrency"]) if level["loop"] == "closed" else f"open {level['fraction']:.0%}"
            cells = [_percentiles(level[key]) for key in LATENCIES]
            if any(cells):
                rows.append([*place, load, *cells])
    return table(["variant", "profile", "load", *(f"{title} (ms)" for title in LATENCIES.values())], rows) if rows else ""


def _percentiles(latency: dict[str, Any] | None) -> str:
    found = latency["percentiles"] if latency else {}
    return ", ".join(f"{name} {number(value)}" for name, value in found.items())


def performance(variants: dict[str, Any]) -> str:
    rows = [[name, f"**{row['performance']['status']}**", row["performance"]["reason"]] for name, row in variants.items()]
    return table(["variant", "performance", "reason"], rows)


def memory(benchmarks: dict[str, Any]) -> str:
    rows = [
        [name, profile_name, estimate(profile["load_s"], " s"), f"{profile['peak_memory_bytes'] / 1e9:.2f} GB", size]
        for name, benchmark in benchmarks.items()
        for size in ["" if benchmark["size_bytes"] is None else megabytes(benchmark["size_bytes"])]
        for profile_name, profile in benchmark["profiles"].items()
    ]
    return table(["variant", "profile", "load", "peak memory", "on disk"], rows)


def cost(benchmarks: dict[str, Any]) -> str:
    """At the highest closed-loop throughput; empty without a price."""
    rows = []
    for name, benchmark in benchmarks.items():
        for found in benchmark["costs"]:
            paid = [f"{number(found[key])} {found['currency']}" for key in ("per_million_output_tokens", "per_million_tokens")]
            rows.append([name, f"{found['price_per_hour']:g} {found['currency']}", f"{found['utilisation']:.0%}", *paid])
    head = ["variant", "an hour", "busy", "a million output tokens", "a million tokens in and out"]
    return table(head, rows) if rows else ""


def notices(benchmarks: dict[str, Any]) -> str:
    return "\n".join(f"- {name}: {notice}" for name, benchmark in benchmarks.items() for notice in benchmark["notices"])


def http(benchmarks: dict[str, Any]) -> list[str]:
    """The same requests put to a server; empty where none was asked."""
    if not benchmarks:
        return []
    parts = ["## Over HTTP", machines(benchmarks), "Not to be set beside the figures above: these hold the server and the network.",
             levels(benchmarks, {})]  # fmt: skip
    parts += [text for text in (open_loop(benchmarks), percentiles(benchmarks), notices(benchmarks)) if text]
    return [part for part in parts if part]
