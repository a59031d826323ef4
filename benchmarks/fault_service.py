"""Faults against the real service: gunicorn on a local port, with a small model. `python -m benchmarks.faults`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests
from PIL import Image

from benchmarks import fault_decoding, fault_front, fault_photos, fault_stuck
from benchmarks.fault_front import told
from benchmarks.fault_row import Row
from serving.inference.photo.cores import usable_cores
from tests.support.live import ROOT, Live, Traffic, memory_mib, photo, running, wait_until
from tests.support.onnx_models import Pair, write_pair
from tests.support.photos_hostile import encode

WORKERS = min(2, usable_cores())
CLIENTS = 6
IN_REQUEST = 32  # photos in one POST /predict/files

# What `python CLOCK` runs: gunicorn, with a wall clock as far off as a file says. The monotonic clock cannot jump.
CLOCK = """
import os, sys, time
shift = os.open(sys.argv.pop(1), os.O_RDONLY)
real, real_ns = time.time, time.time_ns
off = lambda: int(os.pread(shift, 32, 0) or 0)
time.time, time.time_ns = lambda: real() + off(), lambda: real_ns() + off() * 10**9
from gunicorn.app.wsgiapp import run
run()
"""


@dataclass(frozen=True)
class Bench:
    """Where the faults happen, and how many."""

    folder: Path
    seed: int
    quick: bool

    def size(self, long: int, quick: int) -> int:
        """How many of something."""
        return quick if self.quick else long

    @contextlib.contextmanager
    def service(self, name: str, **options: object) -> Iterator[tuple[Live, Pair]]:
        """A service with a pair of its own, and a log that must hold JSON lines alone."""
        pair = write_pair(self.folder / name / "pair", t_clean=0.6)
        settings = {"WORKERS": str(WORKERS), "REQUEST_SECONDS": "10"} | options
        with running(pair, self.folder / name, **settings) as live:
            yield live, pair
        for line in live.log.read_text().splitlines():
            json.loads(line)


def mutated_photos(bench: Bench) -> list[Row]:
    """Photos that are broken in every way, most of them many to a request: an answer for each, and none a 5xx."""
    photos = fault_photos.draw(bench.seed, bench.size(24_000, 400))
    groups = [photos[i : i + IN_REQUEST] for i in range(0, len(photos), IN_REQUEST)]
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    with bench.service("photos", REQUEST_SECONDS="60") as (live, _), ThreadPoolExecutor(2) as pool:
        before = live.workers()

        def send(group: list[tuple[str, Callable[[], bytes]]]) -> list[str]:
            return live.statuses([make() for _, make in group])

        memory = []
        for part in (groups[: len(groups) // 3], groups[len(groups) // 3 :]):
            for group, statuses in zip(part, pool.map(send, part), strict=True):
                for (kind, _), status in zip(group, statuses, strict=True):
                    seen[kind][status] += 1
            time.sleep(bench.size(12, 0))  # by then freed memory has been given back
            memory.append(memory_mib(*live.workers()))
        restarts = len(set(before) - set(live.workers()))
    rows = []
    for kind, counts in seen.items():
        failed = sum(count for status, count in counts.items() if status >= "500")
        rows.append(Row(f"photos: {kind}", counts.total(), counts.total() - failed, failed, told(counts)))
    early, late = memory
    note = f"memory {early:.0f} MiB after a third of {len(photos):,} photos, {late:.0f} MiB at the end"
    grown = late > 1.25 * early and not bench.quick  # a few photos are not enough to reach a plateau
    return [*rows, Row("photos: workers lost, memory grown", WORKERS, WORKERS - restarts, restarts + grown, note)]


def costly_photos(bench: Bench) -> list[Row]:
    """Small photos that cost much, at the default settings: an ordinary client is served, memory is bounded."""
    return list(fault_decoding.costly_photos(bench.folder, quick=bench.quick))


def killed_workers(bench: Bench) -> list[Row]:
    """kill -9 at random moments under load: what fails was in the dead worker's hands, and it is replaced."""
    rng, back = random.Random(bench.seed), 0
    kills: list[tuple[float, float]] = []
    with bench.service("kills") as (live, _), Traffic(live, CLIENTS) as traffic:
        wait_until(lambda: traffic.seen[200] > 20, 30)
        for _ in range(bench.size(25, 2)):
            time.sleep(rng.uniform(0, 1))
            victim = rng.choice(live.workers())
            began = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: victim not in live.workers(), 30)
            kills.append((began, time.monotonic()))  # until then its connections look alive
            wait_until(lambda: len(live.workers()) == WORKERS, 30)
            served = traffic.seen[200]
            wait_until(lambda served=served: traffic.seen[200] > served + 20, 30)
            back += 1
    in_flight = sum(any(began <= gone and ended >= kill for kill, gone in kills) for began, ended in traffic.lost)
    failed = traffic.failed - in_flight
    note = f"{traffic.seen[200]:,} answered, {in_flight} lost in the killed workers' hands"
    too_many = max(0, in_flight - CLIENTS * len(kills))  # a client has one request at a time
    return [Row("worker killed under load", len(kills), back, failed + too_many, note)]


def bad_models(pair: Pair) -> dict[str, Callable[[], object]]:
    """Ways to spoil a pair on the disk."""
    model, threshold = pair
    whole = model.read_bytes()

    def deleted() -> None:
        model.unlink()

    def a_folder() -> None:
        model.unlink()
        model.mkdir()

    def a_pipe() -> None:
        model.unlink()
        os.mkfifo(model)

    return {
        "model truncated": lambda: model.write_bytes(whole[: len(whole) // 2]),
        "model emptied": lambda: model.write_bytes(b""),
        "model of noise": lambda: model.write_bytes(random.Random(0).randbytes(len(whole))),
        "bits of the model flipped": lambda: model.write_bytes(bytes(b ^ 1 for b in whole)),
        "model deleted": deleted,
        "a folder in its place": a_folder,
        "a pipe in its place": a_pipe,
        "a link that leads nowhere": lambda: (model.unlink(), model.symlink_to("nowhere")),
        "threshold truncated": lambda: threshold.write_bytes(threshold.read_bytes()[:9]),
        "threshold of another model": lambda: threshold.write_text(
            '{"T_clean": 0.1, "T_low": null, "certified": true}'
        ),
        "threshold deleted": threshold.unlink,
    }


def spoiled_models(bench: Bench) -> list[Row]:
    """A bad pair under load, then SIGHUP: the old one stays. A worker killed then comes back with the old one too."""
    refused = withstood = 0
    override = str(bench.folder / "models" / "pair" / "threshold.json")
    with (
        bench.service("models", THRESHOLD_PATH=override, REQUIRE_CERTIFIED="1") as (live, pair),
        Traffic(live, CLIENTS) as traffic,
    ):
        model = lambda: requests.get(live.url + "/model", timeout=20).json()  # noqa: E731
        version, ways = model()["version"], bad_models(pair)
        picked = list(ways)[: bench.size(len(ways), 1)]
        for name in picked:
            shutil.rmtree(pair.model.parent)
            write_pair(pair.model.parent, t_clean=0.6)
            os.kill(live.pid, signal.SIGHUP)
            wait_until(lambda: model()["reload_refused"] is None, 60)
            bad_models(pair)[name]()
            os.kill(live.pid, signal.SIGHUP)
            wait_until(lambda: model()["reload_refused"] is not None, 60)
            refused += all(model()["version"] == version for _ in range(4))
        steady = dict(traffic.seen)
        victims = live.workers()
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(set(live.workers()) - set(victims)) == WORKERS, 60)
        wait_until(lambda: requests.get(live.url + "/readyz", timeout=20).ok, 60)
        withstood = int(all(model()["version"] == version for _ in range(8)))
    lost = traffic.seen["lost"]
    failed = sum(count for status, count in steady.items() if status != 200)
    return [
        Row("model or threshold spoiled, SIGHUP", len(picked), refused, failed, f"{steady[200]:,} answered, one model"),
        Row("and then every worker killed", 1, withstood, traffic.failed - lost, f"{lost} lost in flight"),
    ]


def changed_models(bench: Bench) -> list[Row]:
    """Good pairs in quick succession, more signals than pairs, under load."""
    count = bench.size(10, 1)
    with bench.service("reloads") as (live, pair), Traffic(live, CLIENTS) as traffic:
        taken = 0
        for number in range(count):
            write_pair(pair.model.parent, size=40 + number, t_clean=0.61)
            for _ in range(3):
                os.kill(live.pid, signal.SIGHUP)
                time.sleep(0.05)
            seen = lambda: requests.get(live.url + "/model", timeout=20).json()["image_size"]  # noqa: E731
            with contextlib.suppress(AssertionError):
                wait_until(lambda number=number, seen=seen: all(seen() == 40 + number for _ in range(4)), 60)
                taken += 1
    return [Row("model replaced, SIGHUP three times", count, taken, traffic.failed, f"{traffic.seen[200]:,} answered")]


def logs_nowhere(bench: Bench) -> list[Row]:
    """Standard output and error on a full disk, on a pipe that nobody reads, on files that may not grow."""
    rows, count = [], bench.size(2_000, 60)
    damaged = encode(Image.new("RGB", (64, 64)), "TIFF", compression="tiff_lzw")[:-40]  # libtiff complains
    full = os.open("/dev/full", os.O_WRONLY)
    unread, pipe = os.pipe()
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
    for name, output in (("full disk", full), ("pipe that nobody reads", pipe), ("file that may not grow", None)):
        if bench.quick and output == full:
            continue
        with bench.service("logs", output=output) as (live, _):
            if output is None:
                for pid in (live.pid, *live.workers()):
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))

            with ThreadPoolExecutor(CLIENTS) as pool:
                counts = Counter(pool.map(live.status, [damaged, *[photo(255)] * 3] * (count // 4)))
        failed = sum(n for status, n in counts.items() if not "200" <= status < "500")
        rows.append(Row(f"logs: {name}", count, count - failed, failed, told(counts)))
    for descriptor in (full, unread, pipe):
        os.close(descriptor)
    return rows


def clock_jumps(bench: Bench) -> list[Row]:
    """The wall clock jumps by seconds and by decades, both ways, under load."""
    rng, shift, program = random.Random(bench.seed), bench.folder / "shift", bench.folder / "clock.py"
    shift.write_text("0".ljust(32))
    program.write_text(CLOCK)
    command = [sys.executable, str(program), str(shift), "-c", "serving/gunicorn.conf.py", "serving.app:create_app()"]
    jumps = [3600, -3600, 10**9, -(10**9), 1, -1, *(rng.randrange(-(10**9), 10**9) for _ in range(24))]
    jumps, after = jumps[: bench.size(30, 4)], 0
    with (
        bench.service("clock", command=command, PYTHONPATH=str(ROOT)) as (live, _),
        Traffic(live, CLIENTS) as traffic,
    ):
        workers = live.workers()
        for jump in jumps:
            with shift.open("r+") as file:
                file.write(str(jump).ljust(32))
            served = traffic.seen[200]
            with contextlib.suppress(AssertionError):
                wait_until(lambda served=served: traffic.seen[200] > served + 30, 20)
                after += requests.get(live.url + "/readyz", timeout=10).ok
        restarts = len(set(workers) - set(live.workers()))
    note = f"{traffic.seen[200]:,} answered, {restarts} restarts"
    return [Row("clock jumps", len(jumps), after, traffic.failed + restarts, note)]


Scenario = Callable[[Bench], list[Row]]
SCENARIOS: tuple[Scenario, ...] = (
    mutated_photos,
    costly_photos,
    fault_front.slow_clients,
    fault_front.slow_phones,
    fault_front.stopped_servers,
    killed_workers,
    fault_stuck.stuck_workers,
    fault_stuck.silent_names,
    spoiled_models,
    changed_models,
    logs_nowhere,
    clock_jumps,
)


def run(folder: Path, names: Collection[str], *, quick: bool, seed: int) -> Iterator[list[Row]]:
    """The scenarios of these names in turn, in an empty folder; the rows of each as it is done."""
    bench = Bench(folder, seed, quick)
    for scenario in SCENARIOS:
        if scenario.__name__ in names:
            yield scenario(bench)
