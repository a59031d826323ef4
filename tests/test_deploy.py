"""What deploy/kubernetes holds is valid, and asks for what the image and the command line have."""

import re
import shlex
from typing import Any

import kubernetes_validate
import pytest
import yaml

from serving.batch import arguments
from serving.process import metrics
from tests.support.workspace import ROOT

FILES = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
DOCUMENTS = [document for file in FILES for document in yaml.safe_load_all(file.read_text())]


def kinds(kind: str) -> list[dict[str, Any]]:
    return [document for document in DOCUMENTS if document["kind"] == kind]


def templates(document: Any) -> list[dict[str, Any]]:
    """Every pod template in a document."""
    parts = document.values() if isinstance(document, dict) else document if isinstance(document, list) else []
    own = [document["template"]] if isinstance(document, dict) and "template" in document else []
    return own + [template for part in parts for template in templates(part)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["kind"])
def test_documents_are_valid(document: dict[str, Any]) -> None:
    """KubeRay's own kind has no schema here: the pods in it are checked."""
    if document["apiVersion"].startswith("ray.io/"):
        assert len(templates(document)) == 2
        for template in templates(document):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
            kubernetes_validate.validate(pod, "1.33", strict=True)
    else:
        kubernetes_validate.validate(document, "1.33", strict=True)


def test_every_container_has_resources() -> None:
    containers = [c for document in DOCUMENTS for t in templates(document) for c in t["spec"]["containers"]]
    assert len(containers) == 4 and all({"requests", "limits"} <= set(c["resources"]) for c in containers)


def test_commands_are_those_of_serving_batch() -> None:
    container = kinds("Job")[0]["spec"]["template"]["spec"]["containers"][0]
    shard = [re.sub(r"\$\(JOB_COMPLETION_INDEX\)", "7", part) for part in container["args"]]
    args = arguments.parse([*container["command"][3:], *shard])
    assert args.job and (args.shard, args.shard_of) == (7, kinds("Job")[0]["spec"]["completions"])
    args = arguments.parse(shlex.split(kinds("RayJob")[0]["spec"]["entrypoint"])[3:])
    assert args.job and args.ray == "auto"


def test_versions_ports_and_metrics_are_those_of_the_image() -> None:
    version = kinds("RayJob")[0]["spec"]["rayClusterSpec"]["rayVersion"]
    for extras, name in ("ray", "ray"), ("kuberay", "ray[default]"):  # KubeRay asks the dashboard, which is not in ray
        assert f"{name}=={version}" in (ROOT / "serving" / f"requirements-{extras}.txt").read_text()
    assert "EXTRAS=kuberay" in (ROOT / "deploy" / "kubernetes" / "rayjob.yaml").read_text()
    scaled = kinds("HorizontalPodAutoscaler")[0]["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert scaled in {metric.name for metric in metrics.IN_FLIGHT.collect()}
    dockerfile = (ROOT / "Dockerfile").read_text()
    for port in kinds("Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["ports"]:
        assert f"PORT={port['containerPort']}" in dockerfile
