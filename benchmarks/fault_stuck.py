"""What never returns, at the default settings: photos whose decoding hangs, and names whose servers are silent."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import requests

from benchmarks.fault_row import Row
from tests.support.live import COMMAND, ROOT, Live, Traffic, file_server, photo, wait_until

if TYPE_CHECKING:
    from benchmarks.fault_service import Bench

ASKERS = 16  # as many as there may be fetches

# What is run in place of gunicorn: the same, where some photos and some names hang.
HANGING = """
import time
from gunicorn.app.wsgiapp import run
from serving.fetch import resolve
from serving.engine.deployment import Deployment
pixels, system = Deployment.pixels, resolve.system_resolve
Deployment.pixels = lambda self, photo, *rest: time.sleep(3600) if photo == b"hang" else pixels(self, photo, *rest)
def slow(host, port):
    if host.startswith("silent"):
        time.sleep(8)  # as long as glibc with two name servers and a search list
        raise OSError("silent")
    return system(host, port)
resolve.Resolver.__init__.__defaults__ = (slow,)
run()
"""


def stuck_workers(bench: Bench) -> list[Row]:
    """As many photos that hang as there are threads: the worker is replaced, and serves again within STUCK_SECONDS."""
    count, back, lost = bench.size(3, 1), 0, 0
    seconds = {"STUCK_SECONDS": str(bench.size(60, 10))}
    with bench.service("stuck", command=_command(), PYTHONPATH=str(ROOT), WORKERS="1", **seconds) as (live, _):
        for _ in range(count):
            (worker,) = live.workers()
            with ThreadPoolExecutor(8) as hangs, Traffic(live, 2) as traffic, contextlib.suppress(AssertionError):
                for _ in range(8):
                    hangs.submit(live.status, b"hang")
                wait_until(lambda worker=worker: worker not in live.workers(), 90)
                served = traffic.seen[200]
                wait_until(lambda traffic=traffic, served=served: traffic.seen[200] > served + 30, 20)
                back += 1
            lost += traffic.seen["lost"]
    return [Row("every thread of a worker hangs", count, back, lost, "503 until another worker is there")]


def silent_names(bench: Bench) -> list[Row]:
    """Clients that ask for photos at silent names, again and again, and one that asks for a real one."""
    seen: Counter[int] = Counter()
    (bench.folder / "car.jpg").write_bytes(photo(255))
    stop = threading.Event()
    with file_server(bench.folder) as port, ThreadPoolExecutor(ASKERS) as askers:
        local = {"URL_ALLOW_NETWORKS": "127.0.0.0/8", "URL_PORTS": f"80,{port}"}
        with bench.service("names", command=_command(), PYTHONPATH=str(ROOT), WORKERS="1", **local) as (live, _):
            asking = [askers.submit(_ask_silent, live, number, stop) for number in range(ASKERS)]
            for _ in range(bench.size(100, 10)):
                time.sleep(0.25)
                seen[_ask_patiently(live, f"http://localhost:{port}/car.jpg")] += 1
            stop.set()
            wait(asking)
    note = f"of a patient client; {ASKERS} others keep asking for silent names"
    return [Row("URLs beside silent name servers", seen.total(), seen[200], seen.total() - seen[200], note)]


def _command() -> list[str]:
    return [sys.executable, "-c", HANGING, *COMMAND[2:]]


def _ask(live: Live, url: str) -> int:
    return requests.post(live.url + "/predict/url", json={"url": url}, timeout=60).status_code


def _ask_patiently(live: Live, url: str) -> int:
    """As a client that does what Retry-After says, three times."""
    for _ in range(3):
        if (status := _ask(live, url)) != 503:
            return status
        time.sleep(1)
    return 503


def _ask_silent(live: Live, number: int, stop: threading.Event) -> None:
    asked = 0
    while not stop.is_set():
        asked += 1
        _ask(live, f"http://silent-{number}-{asked}.example/")
