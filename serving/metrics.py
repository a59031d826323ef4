"""Prometheus metrics; in several workers, each writes files that any of them adds up."""

from __future__ import annotations

import os
from collections.abc import Sequence

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is imported

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

REQUESTS = Counter("dirtycar_requests", "Requests answered", ["path", "status"])
LATENCY = Histogram("dirtycar_request_seconds", "From a request's head to its answer", ["path"], buckets=_SECONDS)
QUEUE_WAIT = Histogram(
    "dirtycar_queue_wait_seconds", "Waiting before a photo is decoded and before its model call", buckets=_SECONDS
)
BATCH_SIZE = Histogram("dirtycar_batch_size", "Photos in one model call", buckets=(1, 2, 4, 8, 16, 32, 64))
VERDICTS = Counter("dirtycar_verdicts", "Verdicts given", ["label"])
P_CLEAN = Histogram("dirtycar_p_clean", "Calibrated probability of clean", buckets=[i / 20 for i in range(1, 21)])
IN_FLIGHT = Gauge("dirtycar_photos_in_flight", "Photos being decoded, queued or scored", multiprocess_mode="livesum")
RELOADS = Counter("dirtycar_reloads", "Reloads of model and threshold, by worker, or refused as a whole", ["result"])


def observe_batch(waits: Sequence[float], size: int) -> None:
    """Note one model call: the seconds that each photo waited, and how many there were."""
    BATCH_SIZE.observe(size)
    for wait in waits:
        QUEUE_WAIT.observe(wait)


def exposition() -> bytes:
    """All metrics as Prometheus text, over all workers."""
    if MULTIPROCESS_DIR not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)
