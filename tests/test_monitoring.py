"""The dashboard and the alerts: every series that they name is one, and each alert is raised by
what it is for, and by nothing less."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as families
from ruamel.yaml import YAML

from pipeline.gateway import deploy_file
from pipeline.gateway.files import dashboard, monitoring, write
from pipeline.gateway.metrics import Metrics as Gateways
from pipeline.serving.metrics import Metrics as Servers
from tests.deployments import LONE, SHOP, loaded

# Of vLLM 0.30's v1/metrics/loggers.py.
VLLM = {"vllm:kv_cache_usage_perc", "vllm:num_requests_waiting"}
ALERTS = Path(monitoring.__file__).with_name(monitoring.ALERTS)
RULES = loaded(ALERTS.read_text())[0]["groups"][0]["rules"]
SERIES = re.compile(r"\b(?:quantgate_\w+|vllm:\w+)")
MATCHED = re.compile(rf"({SERIES.pattern}){{([^}}]*)}}")
LABELS = re.compile(r"by \(([\w, ]+)\)")
OWN = "quantgate_gateway_"
TIER = '{model="chat", tier="edge"}'
needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="no promtool here (apt-get install prometheus)"
)


class Engine:
    running = waiting = 0
    kv_cache_use = 0.0
    ready = True


def series() -> dict[str, set[str]]:
    """All that gateway and server can show, with the labels of each."""
    gateway = Gateways()
    found: dict[str, set[str]] = {}
    for collected in (gateway, Servers(Engine())):  # type: ignore[arg-type]
        for metric in collected._registry._collector_to_names:
            labels = set(metric._labelnames)  # type: ignore[attr-defined]
            for name in collected._registry._collector_to_names[metric]:
                found[name] = labels | ({"le"} if name.endswith("_bucket") else set())
    return found


def queries() -> list[str]:
    board = json.loads(dashboard.render())
    shown = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return [*shown, *(rule["expr"] for rule in RULES)]


def test_every_series_is_one() -> None:
    known = series()
    assert {"quantgate_gateway_requests_total", "quantgate_requests_waiting"} <= set(known)
    named = {name for query in queries() for name in SERIES.findall(query)}
    assert named <= set(known) | VLLM
    assert named & VLLM == VLLM


def test_labels_are_those_of_the_series() -> None:
    """That they are chosen by, and grouped by."""
    known = series()
    for query in queries():
        for name, chosen in MATCHED.findall(query):
            assert set(re.findall(r"(\w+)[!=]", chosen)) <= known.get(name, set()), query
        for group in LABELS.finditer(query):
            name = SERIES.findall(query[group.end() :])[0]
            assert set(group[1].split(", ")) <= known[name], query


def test_the_text_is_what_prometheus_reads() -> None:
    metrics = Gateways()
    metrics.tries.labels("chat", "edge", "answered").inc()
    assert any(one.name == f"{OWN}tries" for one in families(metrics.text().decode()))


def test_the_dashboard_is_grafanas() -> None:
    """Each panel has a place of its own and a source that is chosen above."""
    board = json.loads(dashboard.render())
    assert {one["name"] for one in board["templating"]["list"]} == {"datasource", "model"}
    panels = board["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    assert len({(one["gridPos"]["x"], one["gridPos"]["y"]) for one in panels}) == len(panels)
    graphs = [one for one in panels if one["type"] != "row"]
    assert len(graphs) >= 15
    assert all(one["datasource"]["uid"] == "${datasource}" for one in graphs)
    assert all(one["targets"] and one["title"] for one in graphs)
    braces = [target["legendFormat"] for one in graphs for target in one["targets"]]
    assert not [one for one in braces if one.count("{{") != one.count("}}")]


def test_every_alert_says_what_to_do() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in ("info", "warning", "critical"), rule
        assert rule["annotations"]["summary"], rule
        assert rule["annotations"]["runbook"].endswith("."), rule


def first(requests: dict[str, int]) -> dict[str, str]:
    """Requests a minute, by the seconds within which they had their first token."""
    name = f'{OWN}time_to_first_token_seconds_bucket{TIER[:-1]}, le="'
    return {f'{name}{le}"}}': f"0+{count}x60" for le, count in requests.items()}


# By alert, and what of: series that raise it after half an hour, and some that must not.
RAISED: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "QuantgateSlowFirstToken": (
        first({"1": 90, "2.5": 91, "+Inf": 100}),
        first({"1": 96, "2.5": 97, "+Inf": 100}),
    ),
    "QuantgateResponseCacheFull": (
        {f"{OWN}cache_bytes": "86x60", f"{OWN}cache_limit_bytes": "100x60"},
        {f"{OWN}cache_bytes": "86x60", f"{OWN}cache_limit_bytes": "0x60"},  # not known
    ),
    "QuantgateKvCacheFull of vLLM": (
        {f"vllm:kv_cache_usage_perc{TIER}": "0.86x60"},
        {f"vllm:kv_cache_usage_perc{TIER}": "0.84x60"},
    ),
    "QuantgateKvCacheFull of ours": (
        {f"quantgate_kv_cache_usage_ratio{TIER}": "0.86x60"},
        {f"quantgate_kv_cache_usage_ratio{TIER}": "0.84x60"},
    ),
    "QuantgateFallbacks": (
        {f"{OWN}fallbacks_total{TIER}": "0+6x60", f"{OWN}tries_total{TIER}": "0+100x60"},
        {f"{OWN}fallbacks_total{TIER}": "0+4x60", f"{OWN}tries_total{TIER}": "0+100x60"},
    ),
    "QuantgateLatencyTargetsMissed": (
        {
            f'{OWN}latency_targets_total{{model="chat", met="no"}}': "0+2x60",
            f'{OWN}latency_targets_total{{model="chat", met="yes"}}': "0+98x60",
        },
        {
            f'{OWN}latency_targets_total{{model="chat", met="no"}}': "0+1x60",
            f'{OWN}latency_targets_total{{model="chat", met="yes"}}': "0+100x60",
        },
    ),
    "QuantgateTierNotReady": (
        {f"{OWN}tier_ready{TIER}": "0x60"},
        {f"{OWN}tier_ready{TIER}": "0x3 1x57"},
    ),
    "QuantgateBudgetSoftBound": (
        {f'{OWN}budget_share{{key="shop", bound="soft"}}': "1.1x60"},
        {f'{OWN}budget_share{{key="shop", bound="hard"}}': "1.1x60"},
    ),
    "QuantgateApprovalEnds": (
        {f"{OWN}approved_until_seconds{TIER}": f"{6 * 86400}x60"},
        {f"{OWN}approved_until_seconds{TIER}": f"{8 * 86400}x60"},
    ),
}


def test_every_alert_is_tried() -> None:
    assert {case.split()[0] for case in RAISED} == {rule["alert"] for rule in RULES}


@needs_promtool
@pytest.mark.parametrize("case", RAISED)
@pytest.mark.parametrize("raised", [True, False])
def test_an_alert_is_raised_by_what_it_is_for(case: str, raised: bool, tmp_path: Path) -> None:
    """Beside an empty deployment, which raises none."""
    alert = case.split(maxsplit=1)[0]
    rule = next(rule for rule in RULES if rule["alert"] == alert)
    values = RAISED[case][0 if raised else 1]
    shutil.copyfile(ALERTS, tmp_path / "alerts.yaml")
    # the annotations name values: only that it is raised is asked
    spoken = YAML(typ="safe", pure=True)
    rules = spoken.load((tmp_path / "alerts.yaml").read_text())
    for one in rules["groups"][0]["rules"]:
        del one["annotations"]
    with (tmp_path / "alerts.yaml").open("w") as stream:
        spoken.dump(rules, stream)
    shown = {"severity": rule["labels"]["severity"], **labels_of(alert, next(iter(values)))}
    asked = {
        "interval": "1m",
        "input_series": [{"series": name, "values": value} for name, value in values.items()],
        "alert_rule_test": [
            {
                "eval_time": "30m",
                "alertname": alert,
                "exp_alerts": [{"exp_labels": shown}] if raised else [],
            }
        ],
    }
    test = {"rule_files": ["alerts.yaml"], "evaluation_interval": "1m", "tests": [asked]}
    with (tmp_path / "test.yaml").open("w") as stream:
        spoken.dump(test, stream)
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def labels_of(alert: str, name: str) -> dict[str, str]:
    """Those that the alert keeps of its series."""
    found = dict(re.findall(r'(\w+)="([^"]*)"', name))
    dropped = {
        "QuantgateSlowFirstToken": {"le"},
        "QuantgateFallbacks": {"tier"},
        "QuantgateLatencyTargetsMissed": {"met"},
    }.get(alert, set())
    return {key: value for key, value in found.items() if key not in dropped}


@needs_promtool
@pytest.mark.parametrize("deployment", [SHOP, LONE])
def test_prometheus_takes_the_files(deployment: str, tmp_path: Path) -> None:
    (tmp_path / "deploy.yaml").write_text(deployment)
    write.write(tmp_path / "deploy.yaml", "monitoring", tmp_path / "out", None)
    for words in (("check", "rules", "alerts.yaml"), ("check", "config", "prometheus.yaml")):
        done = subprocess.run(
            ["promtool", *words], cwd=tmp_path / "out", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_each_tier_is_scraped_through_the_gateway(tmp_path: Path) -> None:
    (tmp_path / "deploy.yaml").write_text(SHOP)
    files = monitoring.files(deploy_file.load(tmp_path / "deploy.yaml"))
    jobs: list[dict[str, Any]] = loaded(files["prometheus.yaml"])[0]["scrape_configs"]
    assert [job["metrics_path"] for job in jobs] == [
        "/metrics",
        *(f"/metrics/Chat.Bot/{name}" for name in ("edge", "cloud", "other")),
    ]
    assert {job["static_configs"][0]["targets"][0] for job in jobs} == {"127.0.0.1:8080"}
    assert jobs[1]["static_configs"][0]["labels"] == {"model": "Chat.Bot", "tier": "edge"}
