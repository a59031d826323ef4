"""Prometheus metrics; in several workers, each writes files that any of them adds up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is imported

_RESERVED = 64 * 1024  # bytes of each file: more than all paths and statuses take
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

REQUESTS = Counter("dirtycar_requests", "Requests answered", ["path", "status"])
UNAVAILABLE = Counter("dirtycar_unavailable", "Requests answered with 503", ["reason"])
LATENCY = Histogram("dirtycar_request_seconds", "From a request's last byte to its answer", ["path"], buckets=_SECONDS)
RECEIVE_SECONDS = Histogram("dirtycar_receive_seconds", "From a request's first byte to its last", buckets=_SECONDS)
THREAD_WAIT = Histogram("dirtycar_thread_wait_seconds", "From a request's last byte to its thread", buckets=_SECONDS)
CONNECTIONS = Gauge("dirtycar_connections", "Open connections, of probes too", multiprocess_mode="livesum")
CUT_OFF = Counter(
    "dirtycar_clients_cut_off",
    "Connections that were too slow with a head, body or answer, or idle, or had to make room for bytes or others",
    ["reason"],
)
QUEUE_WAIT = Histogram(
    "dirtycar_queue_wait_seconds", "Waiting before a photo is decoded and before its model call", buckets=_SECONDS
)
BATCH_SIZE = Histogram("dirtycar_batch_size", "Photos in one model call", buckets=(1, 2, 4, 8, 16, 32, 64))
VERDICTS = Counter("dirtycar_verdicts", "Verdicts given", ["label"])
UNUSABLE = Counter("dirtycar_unusable", "Photos without a verdict", ["reason"])
AUDIT = Counter("dirtycar_audit_photos", "Photos called clean that were sampled for people to judge", ["result"])
CARS = Counter("dirtycar_cars", "Verdicts on cars", ["label"])
P_CLEAN = Histogram("dirtycar_p_clean", "Calibrated probability of clean", buckets=[i / 20 for i in range(1, 21)])
IN_FLIGHT = Gauge("dirtycar_photos_in_flight", "Photos being decoded, queued or scored", multiprocess_mode="livesum")
DECODE_SECONDS = Histogram("dirtycar_decode_seconds", "Decoding one photo", buckets=_SECONDS)
MODEL_SECONDS = Histogram("dirtycar_model_seconds", "One model call", buckets=_SECONDS)
FETCH_SECONDS = Histogram(
    "dirtycar_fetch_seconds", "Fetching from one URL, redirects and failures too", buckets=_SECONDS
)
THREADS_BUSY = Gauge("dirtycar_threads_busy", "Threads that decode or score", multiprocess_mode="livesum")
WORKERS_STUCK = Counter("dirtycar_workers_stuck", "Workers that were replaced because nothing in them moved any more")
RELOADS = Counter("dirtycar_reloads", "Reloads of model and threshold, by worker, or refused as a whole", ["result"])

LOG_LINES_DROPPED = Counter("dirtycar_log_lines_dropped", "Log lines that standard error did not take")

for _counter, _results in ((RELOADS, ("done", "refused", "failed")), (AUDIT, ("marked", "kept", "failed", "dropped"))):
    for _result in _results:  # from 0: Prometheus' increase() does not see a series that begins at 1
        _counter.labels(_result)


def reserve() -> None:
    """Open the files that this process counts in, and take their room on the disk, now: a disk that is full later on
    then fails no request. (Writing to a mapped page that has no room kills the process.) Raises OSError."""
    LOG_LINES_DROPPED.inc(0)  # the first use after a fork opens the files of all metrics
    mine = list(Path(os.environ[MULTIPROCESS_DIR]).glob(f"*_{os.getpid()}.db"))
    try:
        for path in mine:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, _RESERVED)
    except OSError:
        for path in mine:  # or whoever tries again and again would fill the folder
            path.unlink()
        raise


class ModelInService(Collector):
    """What decides the answers, as metrics of its own: all workers serve the same model, one at a time,
    however often it is reloaded."""

    def __init__(self, version: str, precision: str, certified: bool, t_clean: float, t_low: float | None) -> None:
        self._labels = {"version": version, "precision": precision, "certified": str(certified).lower()}
        self._thresholds = {"t_clean": t_clean, "t_low": t_low}

    def collect(self) -> Iterator[Metric]:
        """The metrics; without T_low where there is none."""
        info = GaugeMetricFamily("dirtycar_model_info", "The model in service", labels=list(self._labels))
        info.add_metric(list(self._labels.values()), 1)
        yield info
        for name, value in self._thresholds.items():
            if value is not None:
                yield GaugeMetricFamily(f"dirtycar_{name}", "A threshold in force on p_clean", value)


def exposition(model: ModelInService) -> bytes:
    """All metrics as Prometheus text, over all workers."""
    registry = CollectorRegistry()
    registry.register(model)
    if MULTIPROCESS_DIR not in os.environ:
        return generate_latest(REGISTRY) + generate_latest(registry)
    MultiProcessCollector(registry)
    return generate_latest(registry)
