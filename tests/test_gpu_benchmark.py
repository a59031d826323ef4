"""benchmarks/gpu.py: runs to the end on a CPU, and without a GPU says that it is skipped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.workspace import ROOT, SMALL_MODEL

pytestmark = pytest.mark.slow


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), *flags]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


def test_without_a_gpu_it_is_skipped(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path / "gpu.json"))
    assert done.returncode == 0 and "skipped" in done.stdout
    assert not (tmp_path / "gpu.json").exists()


def test_every_figure_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = run(
        "--cpu", "--models", SMALL_MODEL, "--size", "64", "--batch", "4", "--steps", "2", "--seconds", "0.05",
        "--matrix", "64", "--no-compile", "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    for variant in ("deterministic", "fastest"):
        row = found["train"][f"{SMALL_MODEL} {variant}"]
        assert row["photos_per_s"] > 0 and row["one_batch_per_s"] > 0
        assert f"| {SMALL_MODEL} {variant} | {row['photos_per_s']:.1f} |" in done.stdout
    assert found["train"][f"{SMALL_MODEL} compiled"] is None
    assert found["inference"][SMALL_MODEL]["gflop_per_image"] > 0
    assert len(found["ddp_import_s_start_s"]) == 2
