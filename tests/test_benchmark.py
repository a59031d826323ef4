"""The benchmark's figures are there, plausible, and its accuracy is that of the served file."""

import csv
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from stages.benchmark import BATCHES, measure, peak_memory_mb
from tests.support.workspace import Workspace


def test_the_report(pipeline: Workspace) -> None:
    report = json.loads((pipeline.folder / "reports/benchmark.json").read_text())
    speed = report["speed"]["CPUExecutionProvider"]
    for batch in BATCHES:
        for kind in ("model_only", "photo_to_verdict"):
            row = speed[f"{kind}_batch_{batch}"]
            assert 0 < row["p50_ms"] <= row["p95_ms"]
            assert np.isclose(row["images_per_s"], 1000 * batch / row["p50_ms"], rtol=1e-3)
    assert 0 < speed["cold_start_s"] < 60 and 20 < speed["peak_memory_mb"] < 4000


def test_accuracy_as_served_is_that_of_the_verdicts(pipeline: Workspace) -> None:
    served = json.loads((pipeline.folder / "reports/benchmark.json").read_text())["as_served"]
    threshold = json.loads((pipeline.folder / "artifacts/threshold.json").read_text())["T_clean"]
    with (pipeline.folder / "artifacts/predictions/test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    said_clean = [float(row["p_clean"]) >= threshold for row in rows]
    wrong = sum(said and row["label"] == "dirty" for said, row in zip(said_clean, rows, strict=True))
    assert served["photos"] == len(rows) and served["dirty_as_clean"] == wrong


def test_peak_memory_is_of_the_process_alone() -> None:
    held = np.ones(50_000_000)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(peak_memory_mb).result() < held.nbytes / 1e6 < peak_memory_mb()


def test_measure_warms_up_and_counts() -> None:
    calls: list[int] = []
    found = measure(lambda: calls.append(1), 4, 0.0)
    assert len(calls) == 12 and found["images_per_s"] > 0
