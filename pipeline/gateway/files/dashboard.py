"""A Grafana dashboard, as a table: each panel a title, a unit of Grafana's, and its queries with
their legends."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

OWN = "quantgate_gateway_"
RATE = "[$__rate_interval]"
OF = 'model=~"$model"'
EACH = "{{model}} {{tier}}"
COLUMNS, HEIGHT, WHOLE = 2, 8, 24  # of Grafana's 24 columns
SCHEMA = 39  # of dashboards; Grafana brings an older one up to date


class Panel(NamedTuple):
    """`queries`: PromQL and legend. `limit`: where the line turns red."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    text: str = ""
    limit: float | None = None


def _rate(metric: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({OWN}{metric}{{{OF}{more}}}{RATE}))"


def _share(metric: str, by: str, which: str) -> str:
    """Of what was counted, that with this label."""
    return f"{_rate(metric, by, f', {which}')} / {_rate(metric, by)}"


def _quantile(share: float, metric: str) -> str:
    return f"histogram_quantile({share}, {_rate(f'{metric}_bucket', 'le, model, tier')})"


def _quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    return tuple((_quantile(q, metric), f"{EACH} p{100 * q:.0f}") for q in (0.5, 0.95))


PANELS = {
    "Traffic": [
        Panel("Requests by tier", "reqps", ((_rate("requests_total", "model, tier"), EACH),)),
        Panel(
            "Errors by tier",
            "reqps",
            (
                (
                    _rate("requests_total", "model, tier, status", ', status=~"[45].."'),
                    f"{EACH} {{{{status}}}}",
                ),
            ),
        ),
        Panel(
            "Tokens",
            "short",
            ((_rate("tokens_total", "model, tier, kind"), f"{EACH} {{{{kind}}}}"),),
            "A second.",
        ),
        Panel(
            "In flight and waiting",
            "short",
            (
                (f"{OWN}requests_in_flight{{{OF}}}", f"{EACH} in flight"),
                ("quantgate_requests_waiting", f"{EACH} {{{{pod}}}} waiting"),
                ("vllm:num_requests_waiting", f"{EACH} {{{{pod}}}} waiting"),
            ),
        ),
    ],
    "Latency": [
        Panel(
            "Time to the first token",
            "s",
            _quantiles("time_to_first_token_seconds"),
            "From a request's arrival, all tries.",
            2,
        ),
        Panel("Time per output token", "s", _quantiles("time_per_output_token_seconds")),
        Panel(
            "Latency targets met",
            "percentunit",
            ((_share("latency_targets_total", "model", 'met="yes"'), "{{model}}"),),
            "Of the requests that had one.",
        ),
        Panel(
            "Tiers that take requests",
            "short",
            (
                (f"{OWN}tier_ready{{{OF}}}", f"{EACH} ready"),
                (f"{OWN}breaker_open{{{OF}}}", f"{EACH} kept out by its failures"),
            ),
        ),
    ],
    "Fallbacks and escalations": [
        Panel(
            "Fallbacks",
            "percentunit",
            (
                (
                    f"{_rate('fallbacks_total', 'model, tier')}"
                    f" / {_rate('tries_total', 'model, tier')}",
                    EACH,
                ),
            ),
            "Of the requests that were sent to a tier, those that another had to answer.",
            0.05,
        ),
        Panel(
            "Escalations",
            "reqps",
            ((_rate("escalations_total", "model, tier, rule"), f"{EACH} {{{{rule}}}}"),),
            "Answers that were not enough, so that the next tier was asked.",
        ),
        Panel(
            "Refused",
            "reqps",
            (
                (
                    f"sum by (key, reason) (rate({OWN}refused_total{RATE}))",
                    "{{key}} {{reason}}",
                ),
            ),
            "Beyond a key's bounds.",
        ),
    ],
    "Caches": [
        Panel(
            "Answers from the cache",
            "percentunit",
            ((_share("cache_requests_total", "model", 'outcome!="miss"'), "{{model}}"),),
            "Of the requests that may be cached, those found there, or in flight for another.",
        ),
        Panel(
            "Response cache",
            "percentunit",
            ((f"{OWN}cache_bytes / ({OWN}cache_limit_bytes > 0)", "full"),),
            "Of what it may take.",
            0.85,
        ),
        Panel(
            "KV cache",
            "percentunit",
            tuple(
                (name, f"{EACH} {{{{pod}}}}")
                for name in ("vllm:kv_cache_usage_perc", "quantgate_kv_cache_usage_ratio")
            ),
            "Of its blocks, those in use.",
            0.85,
        ),
    ],
    "Cost": [
        Panel(
            "Cost an hour by feature",
            "short",
            (
                (
                    f"3600 * {_rate('cost_total', 'feature, currency')}",
                    "{{feature}} {{currency}}",
                ),
            ),
            "Device seconds x price.",
        ),
        Panel(
            "Budget spent",
            "percentunit",
            ((f"{OWN}budget_share", "{{key}} {{bound}}"),),
            "Beyond the soft bound an alert is raised, beyond the hard one requests are refused.",
            1,
        ),
        Panel(
            "Approval: days left",
            "d",
            ((f"({OWN}approved_until_seconds{{{OF}}} - time()) / 86400", EACH),),
            "At 0 the tier takes no requests any more.",
        ),
    ],
}


def render() -> str:
    return json.dumps(_dashboard(), indent=2) + "\n"


def _dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for heading, row in PANELS.items():
        place = {"h": 1, "w": WHOLE, "x": 0, "y": y}
        panels.append({"type": "row", "title": heading, "gridPos": place, "panels": []})
        y += 1
        for number, panel in enumerate(row):
            panels.append(_panel(panel, number % COLUMNS, y + number // COLUMNS * HEIGHT))
        y += -(-len(row) // COLUMNS) * HEIGHT
    return {
        "title": "quantgate",
        "uid": "quantgate-gateway",
        "schemaVersion": SCHEMA,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": VARIABLES},
        "panels": [{"id": number, **panel} for number, panel in enumerate(panels, 1)],
    }


SOURCE = {"type": "prometheus", "uid": "${datasource}"}
VARIABLES: list[dict[str, Any]] = [
    {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
    {
        "name": "model",
        "type": "query",
        "datasource": SOURCE,
        "query": f"label_values({OWN}tier_ready, model)",
        "refresh": 2,  # with the time range
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    },
]


def _panel(panel: Panel, column: int, y: int) -> dict[str, Any]:
    width = WHOLE // COLUMNS
    marks: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        marks.append({"color": "red", "value": panel.limit})
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": {"h": HEIGHT, "w": width, "x": column * width, "y": y},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": marks},
                "custom": {"thresholdsStyle": {"mode": "off" if panel.limit is None else "dashed"}},
            },
            "overrides": [],
        },
        "targets": [
            {"refId": chr(65 + number), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for number, (query, legend) in enumerate(panel.queries)
        ],
    }
