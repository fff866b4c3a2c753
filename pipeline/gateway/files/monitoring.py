"""What watches a deployment: Grafana's dashboard, Prometheus' alerts, and what it scrapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.gateway.deploy_file import Deploy, Tier
from pipeline.gateway.files import dashboard, text

DASHBOARD, ALERTS, SCRAPED = "dashboard.json", "alerts.yaml", "prometheus.yaml"
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (what the file may say)
HEADER = """\
Written by quantgate deploy-files. Scraped are the gateway, and each tier's own metrics, which the
gateway passes on. Change the target to where Prometheus reaches the gateway."""


def files(deploy: Deploy) -> dict[str, str]:
    return {
        DASHBOARD: dashboard.render(),
        ALERTS: (Path(__file__).parent / ALERTS).read_text(),
        SCRAPED: text.yaml(_prometheus(deploy), HEADER),
    }


def steps() -> list[str]:
    return [
        f"promtool check config {SCRAPED}  # and take its parts over into your prometheus.yml",
        f"Grafana: Dashboards, New, Import: {DASHBOARD}",
    ]


def _prometheus(deploy: Deploy) -> dict[str, Any]:
    host = EVERYWHERE.get(deploy.listen.host, deploy.listen.host)
    where = f"{f'[{host}]' if ':' in host else host}:{deploy.listen.port}"
    jobs = [_job("quantgate-gateway", "/metrics", where, {})]
    for model, settings in deploy.models.items():
        jobs += [_of_tier(model, name, tier, where) for name, tier in settings.tiers.items()]
    return {"rule_files": [ALERTS], "scrape_configs": jobs}


def _of_tier(model: str, name: str, tier: Tier, where: str) -> dict[str, Any]:
    path = f"/metrics/{model}/{name}"
    return _job(f"quantgate-{model}-{name}", path, where, {"model": model, "tier": name})


def _job(name: str, path: str, where: str, labels: dict[str, str]) -> dict[str, Any]:
    static = {"targets": [where], **({"labels": labels} if labels else {})}
    return {"job_name": name, "metrics_path": path, "static_configs": [static]}
