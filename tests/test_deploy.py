"""Alerts and dashboard: valid by Prometheus's own tool, and about metrics that the service has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY, generate_latest

from serving.process import metrics
from tests.support.workspace import ROOT

DEPLOY = ROOT / "deploy"
RULES = [
    rule["expr"]
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
PANELS = [
    target["expr"]
    for panel in json.loads((DEPLOY / "grafana/dirtycar.json").read_text())["panels"]
    for target in panel["targets"]
]


@pytest.mark.parametrize("expression", [*RULES, *PANELS])
def test_every_expression_is_about_metrics_of_the_service(expression: str) -> None:
    model = metrics.ModelInService("v", "int8", True, 0.5, None)
    known = set(re.findall(r"^# TYPE (\w+)", generate_latest(REGISTRY).decode(), re.MULTILINE))
    known |= {metric.name for metric in model.collect()}
    named = {re.sub(r"_bucket$", "", name) for name in re.findall(r"dirtycar_\w+", expression)}
    assert named and named <= known


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_prometheus_own_tool_accepts_and_tries_the_alerts(tmp_path: Path) -> None:
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        subprocess.run(["promtool", *command], cwd=DEPLOY / "prometheus", check=True, capture_output=True)
    plain = [expression.replace("$__rate_interval", "5m").replace("$instance", ".*") for expression in PANELS]
    rules = [{"record": f"panel{number}", "expr": expression} for number, expression in enumerate(plain)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    subprocess.run(["promtool", "check", "rules", tmp_path / "panels.yml"], check=True, capture_output=True)
