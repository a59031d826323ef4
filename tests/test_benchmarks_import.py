"""Benchmarks run by hand, after long waits: at least they can be started."""

from __future__ import annotations

import importlib
import sys

import pytest
from conftest import ROOT

OPTIONAL = {"fastapi", "imagededup", "mapie", "multipart", "uvicorn"}  # benchmarks/requirements.txt


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py")))
def test_every_benchmark_can_be_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["replaced by a benchmark that is run as a program", *sys.path])
    try:
        importlib.import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")
