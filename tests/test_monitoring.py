"""The alert rules and the dashboard ask for what the service exports, and their own tools read them."""

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.process import metrics
from tests.support.workspace import ROOT

ALERTS, DASHBOARD = ROOT / "deploy/prometheus/alerts.yml", ROOT / "deploy/grafana/dirtycar.json"
OF_SERIES = {"le", "instance", "job"}  # labels that Prometheus, or a histogram, adds


def exported() -> dict[str, set[str]]:
    """The labels of every series at /metrics, with those of metrics that have not been counted yet."""
    found: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if isinstance(metric, metrics.Counter | metrics.Gauge | metrics.Histogram):
            parts = ("_bucket", "_sum", "_count") if isinstance(metric, metrics.Histogram) else ("", "_total")
            found |= {metric._name + part: set(metric._labelnames) for part in parts}
    model = metrics.ModelInService("v", "int8", True, 0.5, 0.1)
    for family in text_string_to_metric_families(metrics.exposition(model).decode()):
        found |= {sample.name: found.get(sample.name, set()) | set(sample.labels) for sample in family.samples}
    return found


@pytest.mark.parametrize("file", [ALERTS, DASHBOARD], ids=lambda file: file.name)
def test_series_and_their_labels_exist(file: Any) -> None:
    series, text = exported(), file.read_text()
    used = set(re.findall(r"\bdirtycar_\w+", text))
    assert len(used) >= 5 and used <= set(series), used - set(series)
    for name, matchers in re.findall(r"\b(dirtycar_\w+)\{([^}]*)\}", text):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        assert labels <= series[name] | OF_SERIES, (name, labels)


@pytest.mark.parametrize("command", ["check rules", "test rules"])
def test_promtool_accepts_the_rules(command: str) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("no promtool on the PATH; Debian's package prometheus has it")
    file = ALERTS if command == "check rules" else ALERTS.with_name("alerts_test.yml")
    done = subprocess.run([promtool, *command.split(), file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_s_own_model_knows_every_key_of_the_dashboard() -> None:
    """Read into the classes that are generated from its schemas, and written again, nothing is lost."""
    dashboard = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    ours = json.loads(DASHBOARD.read_text())
    theirs = json.loads(JSONEncoder().encode(dashboard.Dashboard.from_json(ours)))
    assert missing(ours, theirs) == []
    ours["panels"][0]["tragets"] = ours["panels"][0].pop("targets")
    assert missing(ours, json.loads(JSONEncoder().encode(dashboard.Dashboard.from_json(ours))))


def missing(ours: Any, theirs: Any, place: str = "") -> list[str]:
    """Where one document is not in the other, which may have more keys."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        lost = [f"{place}/{key}" for key in ours if key not in theirs]
        return lost + [
            found for key in ours.keys() & theirs for found in missing(ours[key], theirs[key], f"{place}/{key}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [found for i, (a, b) in pairs for found in missing(a, b, f"{place}/{i}")]
    return [] if ours == theirs else [place]
