"""The service withstands every kind of fault: `python benchmarks/faults.py`, a few of each."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.live import ROOT


@pytest.mark.slow
def test_the_service_withstands_faults() -> None:
    command = [sys.executable, "benchmarks/faults.py", "--quick", "--only", "service", "--seed", "1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
