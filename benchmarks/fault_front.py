"""Slow clients, slow phones and a stopping server at the service's default settings: who else notices?"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from benchmarks.fault_row import Row
from benchmarks.fault_slow import KINDS, crowd, phone_photo, phones, retrying
from benchmarks.inputs import make_photos
from tests.support.live import Live

if TYPE_CHECKING:
    from benchmarks.fault_service import Bench

# The settings of `Bench` that are not the service's defaults.
DEFAULTS = {"REQUEST_SECONDS": "", "WORKERS": ""}


@dataclass
class Waits:
    """Seconds that an ordinary client waited for its answers, and how many it was refused or lost."""

    health: list[float] = field(default_factory=list)
    verdict: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)

    def p99(self, name: str) -> float:
        """In seconds."""
        waits = sorted(getattr(self, name))
        return waits[min(len(waits) - 1, int(0.99 * len(waits)))]


def told(counts: Counter[str]) -> str:
    """Counts of statuses as words."""
    return ", ".join(f"{count:,} x {name}" for name, count in counts.most_common())


def peak_mib(live: Live) -> float:
    """The most memory that the workers ever had."""
    texts = (Path(f"/proc/{pid}/status").read_text() for pid in live.workers())
    return sum(int(text.partition("VmHWM:")[2].split()[0]) for text in texts) / 1024


def watch(live: Live, photo: bytes, seconds: float) -> Waits:
    """An ordinary client and a probe, each asking ten times a second on connections of its own."""
    waits, stop = Waits(), time.monotonic() + seconds

    def ask(what: list[float], send: Callable[[], requests.Response]) -> None:
        while time.monotonic() < stop:
            began = time.monotonic()
            try:
                status = str(send().status_code)
            except requests.RequestException as error:
                status = type(error).__name__
            what.append(time.monotonic() - began)
            if status != "200":
                waits.failed[status] += 1
            time.sleep(max(0.0, 0.1 + began - time.monotonic()))

    session = requests.Session()
    verdict = lambda: session.post(live.url + "/predict/file", files={"file": ("a", photo)}, timeout=60)  # noqa: E731
    probe = lambda: requests.get(live.url + "/healthz", timeout=60)  # noqa: E731
    threads = [threading.Thread(target=ask, args=pair) for pair in ((waits.health, probe), (waits.verdict, verdict))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waits


def slow_clients(bench: Bench) -> list[Row]:
    """Crowds of each kind at the default settings; meanwhile nobody else may notice."""
    rows, photo, count = [], make_photos(1)[0], bench.size(500, 40)
    most = bench.size(200, 2000) / 1000
    with bench.service("slow", **DEFAULTS) as (live, _):
        port = int(live.url.rpartition(":")[2])
        watch(live, photo, 1)
        quiet = watch(live, photo, bench.size(15, 1))
        for name in list(KINDS)[bench.size(0, -1) :]:
            with crowd(port, name, photo, count):
                seen = watch(live, photo, bench.size(20, 1))
            health, verdict = seen.p99("health"), seen.p99("verdict")
            unharmed = health <= most and (bench.quick or verdict <= 2 * quiet.p99("verdict"))
            note = f"health p99 {1000 * health:.0f} ms, verdict p99 {1000 * verdict:.0f} ms"
            note += f" (quiet {1000 * quiet.p99('verdict'):.0f} ms)"
            rows.append(Row(f"slow clients: {name}", count, count * unharmed, seen.failed.total(), note))
    return rows


def slow_phones(bench: Bench) -> list[Row]:
    """Honest uploads of 3 MB at 2 Mbit/s, all at once, at the default settings: each is answered."""
    photo, count = phone_photo(), bench.size(200, 20)
    with bench.service("phones", **DEFAULTS) as (live, _):
        port = int(live.url.rpartition(":")[2])
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            sending = pool.submit(phones, port, photo, count, bench.size(250_000, 2_500_000))
            seen = watch(live, make_photos(1)[0], bench.size(25, 3))
            ends = sending.result()
        note = f"{told(ends)}; health p99 {1000 * seen.p99('health'):.0f} ms, memory {peak_mib(live):.0f} MiB at most"
    return [Row("slow phones, 3 MB at 2 Mbit/s", count, ends["200"], count - ends["200"], note)]


def stopped_servers(bench: Bench) -> list[Row]:
    """SIGTERM under clients that retry elsewhere once they are refused: nothing else happens to a request."""
    rows, photo = [], make_photos(1)[0]
    for count in (8, 64, 200)[: bench.size(3, 1)]:
        ends: Counter[str] = Counter()
        stopped = threading.Event()
        with bench.service("stops", **DEFAULTS) as (live, _), ThreadPoolExecutor(count) as pool:
            for _ in range(count):
                pool.submit(retrying, live.url + "/predict/file", photo, stopped, ends)
            time.sleep(bench.size(8, 1))
            os.kill(live.pid, signal.SIGTERM)
            stopped.set()
        lost = ends.total() - ends["200"]
        rows.append(Row(f"SIGTERM under {count} clients", count, count if not lost else 0, lost, told(ends)))
    return rows
