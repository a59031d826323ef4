"""What a service or a batch run said of many photos: from its CSV, Parquet file or Prometheus metrics."""

from __future__ import annotations

import os
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from serving.batch.scorer import Row
from serving.inference.verdict.rule import CLEAN, UNCERTAIN, UNUSABLE
from serving.stores import extra
from stages.common.base.errors import StageError
from tools.drift.shift import Floats, Scores
from tools.table import read_table

SECONDS = 30  # for an answer of /metrics
OF_THE_PHOTO = ("400", "413", "415", "422")  # statuses


def read_file(path: Path) -> tuple[list[Row], float]:
    """The rows of a CSV or Parquet file of serving.batch, and their threshold. Raises StageError."""
    rows: Sequence[Mapping[str, Any]]
    try:
        if path.suffix == ".parquet":
            rows = extra("pyarrow.parquet").read_table(path, columns=list(Row._fields)).to_pylist()
        else:
            rows = [row for _, row in read_table(path, Row._fields, journal=True, errors="surrogateescape")]
        found = [_row(row) for row in rows]
    except (OSError, ValueError) as error:
        raise StageError(f"{path} is no file of predictions by serving.batch: {error}") from error
    thresholds = {round(row.threshold, 6) for row in found if row.threshold is not None}
    if len(thresholds) != 1:
        raise StageError(f"{path} needs verdicts of one threshold, and has {len(thresholds)}: {sorted(thresholds)[:5]}")
    return found, thresholds.pop()


def _row(row: Mapping[str, Any]) -> Row:
    p_clean, threshold = (None if row[name] in ("", None) else float(row[name]) for name in ("p_clean", "threshold"))
    if not all(0 <= value <= 1 for value in (p_clean, threshold) if value is not None):
        raise ValueError(f"{row['path']}: p_clean {p_clean}, threshold {threshold}")
    if not isinstance(row["path"], str):
        raise ValueError(f"path {row['path']!r} is no text")
    return Row(row["path"], row["label"] or "", p_clean, threshold, row["error"] or "")


def refused(rows: Sequence[Row]) -> dict[str, float]:
    """The share of photos without a verdict by kind of error, and of uncertain and unusable ones."""
    kinds = Counter(row.label if row.label in (UNCERTAIN, UNUSABLE) else row.error.partition(":")[0] for row in rows)
    return {kind: number / len(rows) for kind, number in sorted(kinds.items()) if kind}


def read_metrics(url: str) -> tuple[Scores, Floats, float, dict[str, float], bool]:
    """What a service has counted since it started: scores, the edges of their bins, threshold, refused shares; and
    whether it has reloaded its model, so that some may be of another one.

    STATUS_TOKEN of the environment is sent. Raises StageError.
    """
    address, token = url.rstrip("/").removesuffix("/metrics").rstrip("/") + "/metrics", os.environ.get("STATUS_TOKEN")
    try:
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"} if token else {})
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            samples = [sample for family in families for sample in family.samples]
        below = sorted((float(s.labels["le"]), s.value) for s in samples if s.name == "dirtycar_p_clean_bucket")
        labels = Counter({s.labels["label"]: s.value for s in samples if s.name == "dirtycar_verdicts_total"})
        answers = [s for s in samples if s.name == "dirtycar_requests_total" and "/predict/" in s.labels["path"]]
        threshold = next(s.value for s in samples if s.name == "dirtycar_t_clean")
    except (OSError, HTTPException, ValueError, KeyError, StopIteration) as error:
        sent = "sent" if token else "not set"
        raise StageError(f"{address} gives no metrics of this service: {error!r}; STATUS_TOKEN is {sent}") from error
    if not labels.total():
        raise StageError(f"{address}: the service has given no verdict yet")
    failed = sum(s.value for s in answers if s.labels["status"] in OF_THE_PHOTO)
    bins = np.diff([count for _, count in below[:-1]], prepend=0)  # the last but one ends at 1: infinity adds none
    counts = {"refused": failed, UNCERTAIN: labels[UNCERTAIN], UNUSABLE: labels[UNUSABLE]}
    rates = {kind: count / (failed + labels.total()) for kind, count in counts.items() if count}
    edges = np.array([end for end, _ in below[:-2]])
    reloaded = any(s.name == "dirtycar_reloads_total" and s.labels["result"] == "done" and s.value for s in samples)
    return Scores(bins, labels[CLEAN]), edges, threshold, rates, reloaded
