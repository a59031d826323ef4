"""The documents name files, targets and parameters that exist."""

import re

import pytest
import yaml

from tests.support.workspace import ROOT

DOCUMENTS = ("README.md", "CONTRIBUTING.md")
MADE = ("artifacts/", "reports/", "data_cars/", ".scratch/", "photos/")  # by the pipeline, or the reader's own


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_exists(document: str) -> None:
    named = re.findall(r"[`(]([\w./-]*(?:/|\.py|\.ya?ml|\.md|\.txt))[`)]", (ROOT / document).read_text())
    paths = {name for name in named if not name.startswith((*MADE, "/")) and "NAME" not in name}
    assert paths and not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_exists(document: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make ([a-z-]+)", (ROOT / document).read_text(), re.MULTILINE)) <= set(targets)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_parameter_exists(document: str) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    known = {f"{section}.{key}" for section, values in params.items() if isinstance(values, dict) for key in values}
    sections = "|".join(section for section, values in params.items() if isinstance(values, dict))
    named = re.findall(rf"[` ]((?:{sections})\.[a-z_]+)[`=:]", (ROOT / document).read_text())
    assert set(named) <= known | {"threshold.json", "eval.json"}
