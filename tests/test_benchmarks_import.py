"""Benchmarks run by hand, after long waits: at least they can be started."""

from __future__ import annotations

import importlib
import sys

import pytest

from tests.support.workspace import ROOT


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py")))
def test_every_benchmark_can_be_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["replaced by a benchmark that is run as a program", *sys.path])
    # What benchmarks/requirements.txt adds, they import where they use it.
    importlib.import_module(f"benchmarks.{name}")
