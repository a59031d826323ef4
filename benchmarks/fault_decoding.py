"""Small photos that cost much, against the service at its default settings: eight at once, then 32 in one request."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from benchmarks.fault_row import Row
from serving.settings import Settings
from tests.support.live import Live, Traffic, photo, running
from tests.support.onnx_models import write_pair
from tests.support.photos_hostile import CASES

AT_ONCE, IN_REQUEST = 8, 32
LONGEST_GAP = 2.0  # seconds without an answer to an ordinary client
# Cases of the quick version: stopped by their structure, and by the memory that they declare.
QUICK = ("JPEG, 1 million Exif segments", "HEIC 64 x 64 with 3000 x 3000 inside")


class Usage:
    """What a service takes meanwhile: its CPU time in seconds, and the most that its processes but the first held, in
    bytes."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._stop = threading.Event()
        self.cpu, self.peak = -live.cpu_seconds(), 0
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Usage:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.cpu += self._live.cpu_seconds()

    def _watch(self) -> None:
        server = psutil.Process(self._live.pid)
        while not self._stop.wait(0.02):
            rss = 0
            for process in server.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    rss += process.memory_info().rss
            self.peak = max(self.peak, rss)


def costly_photos(folder: Path, *, quick: bool) -> Iterator[Row]:
    """A row for each case: its size, its answers, and what the service took for them."""
    pair = write_pair(folder / "pair", t_clean=0.6)
    most = Settings.from_env({}).max_memory
    with running(pair, folder) as live:
        workers = live.workers()
        for name, make in CASES.items():
            if quick and name not in QUICK:
                continue
            data = make()
            with Usage(live) as usage, Traffic(live, 1) as traffic:
                answers = _alone(live, data) + _together(live, data)
            counts = Counter(answers)
            gap = max(traffic.waits)
            bad = counts["lost"] + counts["500"] + (gap > LONGEST_GAP) + (usage.peak > most) + traffic.failed
            note = (
                f"{len(data):,} bytes: {', '.join(f'{count} x {status}' for status, count in counts.most_common())}; "
                f"{usage.cpu:.1f} s CPU, {usage.peak / 2**20:,.0f} MiB, longest gap {gap:.2f} s"
            )
            yield Row(f"costly: {name}", len(answers), len(answers) - counts["lost"], bad, note)
        yield Row("costly: workers lost", len(workers), len(set(workers) & set(live.workers())), 0)


def _alone(live: Live, data: bytes) -> list[str]:
    """The statuses of eight at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(live.status, [data] * AT_ONCE))


def _together(live: Live, data: bytes) -> list[str]:
    """The statuses of as many as fit into one request, with an ordinary one in front and behind."""
    count = min(IN_REQUEST, 90_000_000 // len(data)) - 2
    first, *statuses, last = live.statuses([photo(255), *[data] * max(1, count), photo(255)])
    if {first, last} != {"200"} and len({first, last, *statuses}) > 1:  # else the whole request was refused
        return [*statuses, "lost", "lost"]
    return [first, *statuses, last]
