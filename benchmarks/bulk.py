"""Many photos: the job engine beside the single file, Ray and S3 beside the disk, kills, and ten million rows.

    python -m benchmarks.bulk [rates] [faults] [manifest] [--photos 2000] [--rounds 3] [--trials 20] [--before COMMIT]
        [--only WORDS]

rates: 1600 x 1200 JPEGs and an int8 tf_efficientnet_lite0 at 128 pixels with random weights and no car check. Every
round runs everything, in turns and as processes of their own, on a quarter of the photos and on all: the difference is
without start-up, on Ray too, where all processes have their model by then. Medians are shown, and the ratio to another
way within a round, with its least and its most. S3 twice: with the store on the cores of the program, and with a core
each (the program on the first one, the store on the others), beside the folder on that one core; a store is normally
another machine. `--before` adds the `serving.batch` of a commit.
faults: kill -9 of a scoring process, a raylet and the driver in turns (a Ray cluster of three raylets on this machine),
then the same command again; counts the trials in which every photo has exactly one row. manifest: a list of ten million
rows (made up) with a scorer that scores nothing, and what follows for 100 million photos on paper.
Needs tests/requirements.txt.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import obstore
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.inputs import make_models, make_photos
from serving import stores
from serving.batch import job, load
from serving.batch.folder import Folder
from serving.batch.scorer import Row
from serving.batch.sources import find
from serving.stores import Photo
from tests.support import ray_cluster, store

ROOT = Path(__file__).resolve().parent.parent
MACHINE_CORES = 16
ROWS = 10_000_000


class Way(NamedTuple):
    """A way to score `{bucket}` or a folder: what it is compared with, the ratio that is asked, and its options.

    `apart`: the program has one core to itself and the store the other one, as if it were another machine.
    """

    name: str
    beside: str = ""
    asked: float = 0.0
    s3: bool = False
    options: tuple[str, ...] = ()
    apart: bool = False
    cwd: Path = ROOT


def ways_of(shard: int, before: str | None, folder: Path) -> list[Way]:
    """What is measured; `before` is a commit, which is unpacked into the folder."""
    shards = ("--shard-size", str(shard))
    ways = [
        Way("single file"),
        Way("job", "single file", options=shards),
        Way("job on Ray", "job", 0.9, options=(*shards, "--ray")),
        Way("single file from S3, the store on the same cores", "single file", s3=True),
        Way("single file, one core", apart=True),
        Way("single file from S3, a core each", "single file, one core", 0.85, s3=True, apart=True),
    ]
    if before:
        (folder / "before").mkdir()
        archive = subprocess.run(["git", "archive", before], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder / "before"], input=archive, check=True)
        ways[:1] = [
            Way(f"single file of {before}", cwd=folder / "before"),
            Way("single file", f"single file of {before}", 0.95),
        ]
    return ways


def prepared(count: int, folder: Path) -> dict[str, int]:
    """A model, which the environment names, and two folders of photos. Returns how many these have, by name."""
    distinct = make_photos()
    make_models(folder / "models", distinct, "tf_efficientnet_lite0", 128)
    model = folder / "models" / "int8" / "best.onnx"
    model.write_bytes(model.read_bytes().replace(b', "distance": []}', b"}" + b" " * 16))  # older commits know none
    os.environ["MODEL_PATH"] = str(model)
    numbers = {"few": count // 4, "all": count}
    for name, number in numbers.items():
        (folder / name).mkdir()
        for place in range(number):
            (folder / name / f"{place:05}.jpg").write_bytes(distinct[place % len(distinct)])
    return numbers


def rates(count: int, rounds: int, before: str | None, only: str, folder: Path) -> None:
    """Photos a second of every way, and its ratio to the way it is compared with."""
    numbers = prepared(count, folder)
    ways = [way for way in ways_of(max(1, count // 8), before, folder) if only in way.name]
    spent: dict[str, list[Cost]] = {way.name: [] for way in ways}
    (folder / "store").mkdir()
    with store.running(folder / "store") as port:
        bucket = f"s3://{store.BUCKET}"
        os.environ |= store.environment(port)
        server = psutil.Process().children()[0]
        for name in numbers:
            for path in (folder / name).iterdir():
                obstore.put(*stores.split(f"{bucket}/{name}/{path.name}"), path)
        for turn in range(rounds):
            for way in ways[:: (-1) ** turn]:
                costs = []
                with pinned(server, apart=way.apart):
                    for name in numbers:
                        source = f"{bucket}/{name}/" if way.s3 else str(folder / name)
                        out = folder / f"{name}-{turn}-{ways.index(way)}{'' if way.options else '.csv'}"
                        command = [sys.executable, "-m", "serving.batch", source, "--out", str(out), *way.options]
                        costs.append(cost(command, way.cwd, server))
                few, whole = costs
                number = numbers["all"] - numbers["few"]
                spent[way.name].append(Cost(*((b - a) / number for a, b in zip(few, whole, strict=True))))
                print(f"  round {turn + 1}: {way.name}", *spent[way.name][-1], flush=True)
    print(f"{count} photos, {rounds} rounds, {os.cpu_count()} cores; without start-up; speeds as ratios within a round")
    for way in ways:
        report(way, spent)


def report(way: Way, spent: dict[str, list[Cost]]) -> None:
    """The costs of a photo, and the ratios to the way that it is compared with."""
    print(f"  {way.name}, at least {way.asked} is asked" if way.asked else f"  {way.name}")
    for kind, unit in (("wall", "ms of time"), ("cpu", "ms of CPU"), ("stored", "ms of the store's CPU")):
        mine = [getattr(one, kind) for one in spent[way.name]]
        if (kind == "cpu" and "--ray" in way.options) or (kind == "stored" and not way.s3):
            continue
        line = f"    {1000 * statistics.median(mine):7.2f} {unit} a photo"
        if kind != "stored" and way.beside in spent:
            other = [getattr(one, kind) for one in spent[way.beside]]
            ratios = [b / a for a, b in zip(mine, other, strict=True)]
            line += f"; {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of the {way.beside}"
        print(line)


@contextlib.contextmanager
def pinned(server: psutil.Process, *, apart: bool) -> Iterator[None]:
    """This process and what it starts on the first core alone, all threads of the store on the others."""
    cores = sorted(os.sched_getaffinity(0))

    def pin(ours: Sequence[int], theirs: Sequence[int]) -> None:
        os.sched_setaffinity(0, ours)
        for thread in server.threads():
            os.sched_setaffinity(thread.id, theirs)

    if apart:
        pin(cores[:1], cores[1:])
    yield
    pin(cores, cores)


class Cost(NamedTuple):
    """What a command, or a photo of it, took, in seconds; the CPU time lacks that of Ray's processes, `stored` is the
    store's."""

    wall: float
    cpu: float
    stored: float


def cost(command: Sequence[str], cwd: Path, server: psutil.Process) -> Cost:
    """What a command that has to succeed takes."""

    def now() -> Cost:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return Cost(time.perf_counter(), used.ru_utime + used.ru_stime, sum(server.cpu_times()[:2]))

    before = now()
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return Cost(*(b - a for a, b in zip(before, now(), strict=True)))


def faults(trials: int, folder: Path) -> None:
    """Kills in turns; how many trials ended with every photo once."""
    right = 0
    for trial in range(trials):
        victim = ray_cluster.VICTIMS[trial % len(ray_cluster.VICTIMS)]
        place = folder / f"trial-{trial}"
        place.mkdir()
        found = ray_cluster.disturbed(place, victim)
        right += found
        print(f"  trial {trial + 1}, kill -9 of the {victim}: {'every photo once' if found else 'WRONG'}", flush=True)
    print(f"{right} of {trials} trials ended with every photo exactly once")


class Unscored:
    """A scorer that gives every photo the same row at once."""

    def __init__(self) -> None:
        self.deployment = load(ROOT / "artifacts" / "best.onnx").deployment

    def rows(self, listed: Sequence[Photo]) -> Iterator[Row]:
        """A row for each photo."""
        yield from (Row(photo.path, "clean", 1.0, 0.5) for photo in listed)


def manifest_rows(folder: Path) -> None:
    """Ten million rows: until the first part lies there, until all are listed, and the memory of this process."""
    listed = folder / "list.parquet"
    with pq.ParquetWriter(listed, pa.schema({"path": pa.string()})) as writer:
        for first in range(0, ROWS, 1_000_000):
            paths = [f"s3://photos/2026/{number:09}.jpg" for number in range(first, first + 1_000_000)]
            writer.write_table(pa.table({"path": paths}))
            del paths
    scorer, out = Unscored(), Folder(str(folder / "out"))
    held = psutil.Process().memory_info().rss / 2**20
    started = time.perf_counter()
    shards = job.start(out, scorer.deployment, find([str(listed)]), {"shard_size": 10_000}, 0, 1)
    job.score_shard(out, scorer, next(iter(shards)))
    first = time.perf_counter() - started
    if shards.listing:
        shards.listing.result()
    whole, most = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{ROWS:,} rows: first part after {first:.1f} s, all listed after {whole:.1f} s")
    print(f"memory {held:.0f} MiB before, {most:.0f} MiB at most")
    on_paper(whole / ROWS)


def on_paper(listing: float, photos_per_core: float = 60.0, gets: float = 5500.0, total: int = 100_000_000) -> None:
    """100 million photos: what bounds them, at `listing` seconds a row of the manifest. `gets`: GETs a second that one
    prefix of S3 is documented to give; a LIST names 1,000 keys and takes about 0.1 s."""
    print(f"on paper, {total:,} photos, {MACHINE_CORES} cores a machine, {photos_per_core:.0f} photos/s a core:")
    bounds = {"listing by LIST": total / 1000 * 0.1, "writing the manifest": total * listing}
    for machines in (1, 8, 64):
        need = bounds | {
            "decoding and model": total / (photos_per_core * MACHINE_CORES * machines),
            "GETs of one prefix": total / gets,
        }
        worst = max(need, key=lambda name: need[name])
        each = ", ".join(f"{name} {value / 3600:.1f} h" for name, value in need.items())
        print(f"  {machines:3} machines: {need[worst] / 3600:.1f} h, bound by {worst} ({each})")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["rates", "faults", "manifest"])
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--before", metavar="COMMIT")
    parser.add_argument("--only", default="", metavar="WORDS", help="of rates, the ways whose name has these words")
    args = parser.parse_args()
    ways = {
        "rates": lambda folder: rates(args.photos, args.rounds, args.before, args.only, folder),
        "faults": lambda folder: faults(args.trials, folder),
        "manifest": manifest_rows,
    }
    for part in args.parts:
        with tempfile.TemporaryDirectory() as folder:
            ways[part](Path(folder))


if __name__ == "__main__":
    main()
