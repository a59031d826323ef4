"""Slow clients, slow phones and a stopping server at the service's default settings: who else notices?"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.fault_row import Row
from benchmarks.fault_slow import KINDS, crowd, phone_photo, phones
from benchmarks.inputs import make_photos
from tests.support.live import Live, Traffic, retry_until_refused

if TYPE_CHECKING:
    from benchmarks.fault_service import Bench

# The settings of `Bench` that are not the service's defaults.
DEFAULTS = {"REQUEST_SECONDS": "", "WORKERS": ""}


def told(counts: Counter[str]) -> str:
    """Counts of statuses as words."""
    return ", ".join(f"{count:,} x {name}" for name, count in counts.most_common())


def peak_mib(live: Live) -> float:
    """The most memory that the workers ever had."""
    texts = (Path(f"/proc/{pid}/status").read_text() for pid in live.workers())
    return sum(int(text.partition("VmHWM:")[2].split()[0]) for text in texts) / 1024


@contextmanager
def watch(live: Live, photo: bytes) -> Iterator[tuple[Traffic, Traffic]]:
    """An ordinary client and a probe, each asking ten times a second."""
    with Traffic(live, 1, data=photo, every=0.1) as verdicts, Traffic(live, 1, every=0.1, probe=True) as health:
        yield verdicts, health


def slow_clients(bench: Bench) -> list[Row]:
    """Crowds of each kind at the default settings; meanwhile nobody else may notice."""
    rows, photo, count = [], make_photos(1)[0], bench.size(500, 40)
    most = bench.size(200, 2000) / 1000
    with bench.service("slow", **DEFAULTS) as (live, _):
        with watch(live, photo):
            time.sleep(1)
        with watch(live, photo) as (quiet, _):
            time.sleep(bench.size(15, 1))
        for name in list(KINDS)[bench.size(0, -1) :]:
            with crowd(live.port, name, photo, count), watch(live, photo) as (verdicts, health):
                time.sleep(bench.size(20, 1))
            unharmed = health.p99() <= most and (bench.quick or verdicts.p99() <= 2 * quiet.p99())
            note = f"health p99 {1000 * health.p99():.0f} ms, verdict p99 {1000 * verdicts.p99():.0f} ms"
            note += f" (quiet {1000 * quiet.p99():.0f} ms)"
            rows.append(Row(f"slow clients: {name}", count, count * unharmed, verdicts.failed + health.failed, note))
    return rows


def slow_phones(bench: Bench) -> list[Row]:
    """Honest uploads of 3 MB at 2 Mbit/s, all at once, at the default settings: each is answered."""
    photo, count = phone_photo(), bench.size(200, 20)
    with bench.service("phones", **DEFAULTS) as (live, _):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool, watch(live, make_photos(1)[0]) as (_, health):
            ends = pool.submit(phones, live.port, photo, count, bench.size(250_000, 2_500_000)).result()
        note = f"{told(ends)}; health p99 {1000 * health.p99():.0f} ms, memory {peak_mib(live):.0f} MiB at most"
    return [Row("slow phones, 3 MB at 2 Mbit/s", count, ends["200"], count - ends["200"], note)]


def stopped_servers(bench: Bench) -> list[Row]:
    """SIGTERM under clients that retry elsewhere once they are refused: nothing else happens to a request."""
    rows, photo = [], make_photos(1)[0]
    for count in (8, 64, 200)[: bench.size(3, 1)]:
        ends: Counter[str] = Counter()
        stopped = threading.Event()
        with bench.service("stops", **DEFAULTS) as (live, _), ThreadPoolExecutor(count) as pool:
            for _ in range(count):
                pool.submit(retry_until_refused, live, photo, ends, stopped)
            time.sleep(bench.size(8, 1))
            os.kill(live.pid, signal.SIGTERM)
            stopped.set()
        lost = ends.total() - ends["200"]
        rows.append(Row(f"SIGTERM under {count} clients", count, count if not lost else 0, lost, told(ends)))
    return rows
