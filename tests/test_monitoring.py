"""The alert rules and the dashboard ask for what the service exports, and their own tools read them."""

import json
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from serving.process import metrics
from tests.support.live import photo, running
from tests.support.onnx_models import write_pair
from tests.support.workspace import ROOT

ALERTS, DASHBOARD = ROOT / "deploy/prometheus/alerts.yml", ROOT / "deploy/grafana/dirtycar.json"
OF_SERIES = {"le", "instance", "job"}  # labels that Prometheus, or a histogram, adds


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """Every series at /metrics of a service that has answered a few requests, by the labels of its samples; those that
    it has had no reason to count yet, such as crashes, with any labels."""
    folder, found = tmp_path_factory.mktemp("live"), defaultdict[str, list[dict[str, str]]](list)
    with running(write_pair(folder / "pair"), folder, AUDIT_SHARE="1") as live:
        for data in (photo(250), photo(20), b"no photo"):
            live.send(data)
        text = requests.get(live.url + "/metrics", timeout=30).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name].append(dict(sample.labels))
    for metric in vars(metrics).values():
        if isinstance(metric, metrics.Counter) and (name := f"{metric._name}_total") not in found:
            found[name] = [dict.fromkeys(metric._labelnames, "any")]
    return found


@pytest.mark.parametrize("file", [ALERTS, DASHBOARD], ids=lambda file: file.name)
def test_series_and_their_labels_exist(file: Path, exported: dict[str, list[dict[str, str]]]) -> None:
    text = file.read_text()
    used = set(re.findall(r"\bdirtycar_\w+", text))
    assert len(used) >= 5 and used <= set(exported), used - set(exported)
    for name, matchers in re.findall(r"\b(dirtycar_\w+)\{([^}]*)\}", text):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        assert labels <= {*exported[name][0], *OF_SERIES}, (name, labels)


def promtool(*arguments: str | Path) -> None:
    if (command := shutil.which("promtool")) is None:
        pytest.skip("no promtool on the PATH; Debian's package prometheus has it")
    done = subprocess.run([command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_panel_shows_something(exported: dict[str, list[dict[str, str]]], tmp_path: Path) -> None:
    """Prometheus evaluates each query of the dashboard on what the service exports."""
    series = []
    for name, samples in exported.items():
        for labels in samples:
            matchers = ",".join(f"{key}={json.dumps(value)}" for key, value in {**labels, "instance": "a"}.items())
            series.append({"series": f"{name}{{{matchers}}}", "values": "0+1x3000"})
    variables = {"$instance": ".*", "$__rate_interval": "5m"}
    queries = [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]
    tests = []
    for query in queries:
        for name, value in variables.items():
            query = query.replace(name, value)
        shown = {"expr": f"count({query}) > bool 0", "eval_time": "2d", "exp_samples": [{"labels": "{}", "value": 1}]}
        tests.append(shown)
    assert len(tests) >= 10 and "$" not in json.dumps(tests)
    content = {
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}],
    }
    (tmp_path / "panels.yml").write_text(json.dumps(content))
    promtool("test", "rules", tmp_path / "panels.yml")


@pytest.mark.parametrize("command", ["check rules", "test rules"])
def test_promtool_accepts_the_rules(command: str) -> None:
    promtool(*command.split(), ALERTS if command == "check rules" else ALERTS.with_name("alerts_test.yml"))


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
