"""A job: many photos scored in shards into a folder, by any number of runs, one after the other or at once.

`_job.json` says what is scored and how, `manifest/` lists the photos, `part-NNNNNN.parquet` has the rows of a shard and
`_SUCCESS` the totals. Each is written whole and once; whatever is there is never scored again.
"""

from __future__ import annotations

import io
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

from serving.batch import manifest
from serving.batch.folder import Folder
from serving.batch.manifest import Listing
from serving.batch.photos import UNAVAILABLE, Photo, extra, open_file
from serving.batch.results import table
from serving.batch.scorer import Row, Scorer
from serving.batch.sources import URLS
from serving.engine.deployment import Deployment
from serving.verdict.errors import UserError

log = logging.getLogger(__name__)

JOB, SUCCESS = "_job.json", "_SUCCESS"
TRIES = 3
PAUSE = 2.0  # seconds before the second try of a shard; each further one waits four times as long
REFRESH = 10.0  # seconds after which the folder is listed again for what other runs have done
WAIT = 0.5  # seconds between looks for newly listed shards
FOOTER = 64 * 1024  # bytes read at once of a part whose totals are wanted
READERS = 32  # of footers

Tick = Callable[[int], object]


class JobError(UserError):
    """A job that cannot be gone on with, or a shard that cannot be finished now."""


@dataclass(frozen=True)
class Share:
    """The shards that are this run's: those whose number is `index` modulo `of`."""

    index: int = 0
    of: int = 1


def claim(folder: Folder, deployment: Deployment, options: dict[str, Any]) -> None:
    """Write _job.json, or go on with the same job. Raises JobError for another one."""
    rule = deployment.rule
    job = {
        "model": deployment.predictor.sha256,
        "decision": {"T_clean": rule.t_clean, "T_low": rule.t_low, "certified": deployment.certified},
        **options,
    }
    if folder.write(JOB, json.dumps(job, indent=1).encode()):
        return
    before = _read_json(folder, JOB) or {}
    if changed := [f"{key} was {before.get(key)}, now it is {job[key]}" for key in job if before.get(key) != job[key]]:
        raise JobError(f"{folder.at(JOB)} is another job's: {'; '.join(changed)}")


def score_shard(folder: Folder, scorer: Scorer, shard: int, tick: Tick = lambda _: None) -> None:
    """Score a shard into its part. Raises JobError where photos are unavailable just now, and FolderError."""
    ids, photos = manifest.read_segment(folder, shard)
    rows: list[Row] = []
    remote = any(photo.location.startswith(URLS) for photo in photos)
    try:
        with closing(scorer.rows(photos, remote=remote)) as scored:
            for row in scored:
                if row.error.startswith(UNAVAILABLE):
                    raise JobError(f"{row.path}: {row.error}")
                rows.append(row)
                tick(1)
        folder.write(part(shard), _part(rows, ids, scorer.deployment))
    except BaseException:
        tick(-len(rows))
        raise


def part(shard: int) -> str:
    """The file with a shard's rows."""
    return f"part-{shard:06}.parquet"


def _part(rows: list[Row], ids: list[int], deployment: Deployment) -> bytes:
    counts = json.dumps(Counter(row.label or "error" for row in rows))
    content = table(rows, ids, deployment).replace_schema_metadata({"counts": counts})
    buffer = io.BytesIO()
    extra("pyarrow.parquet").write_table(content, buffer, compression="zstd")
    return buffer.getvalue()


def results(folder: Folder) -> Iterator[tuple[Photo, Row]]:
    """The photos of a job with their rows, in order; shards without a part are left out."""
    done = {found.name for found in folder.files()}
    totals = manifest.totals(folder)
    for shard in range(totals.shards if totals else 0):
        if part(shard) in done:
            photos = manifest.read_segment(folder, shard)[1]
            content = io.BytesIO(folder.read(part(shard)) or b"")
            rows = extra("pyarrow.parquet").read_table(content, columns=list(Row._fields[1:])).to_pylist()
            for photo, row in zip(photos, rows, strict=True):
                yield photo, Row(photo.path, row["label"] or "", row["p_clean"], row["threshold"], row["error"] or "")


class Shards:
    """The shards of a job that are left to do, as they are listed, in random order: runs at once meet rarely."""

    def __init__(self, folder: Folder, share: Share, listing: Listing | None) -> None:
        self._folder, self._share, self.listing = folder, share, listing
        self._given: set[int] = set()
        self.totals: manifest.Totals | None = None  # once all sources are listed

    def __iter__(self) -> Iterator[int]:
        """Raises what ended the listing early, after the last shard."""
        while True:
            if self.listing is not None:
                self.listing.join(0)
            listing = self.listing is not None and self.listing.is_alive()
            self.totals = self.totals or manifest.totals(self._folder)
            if left := self._left():
                yield from self._some(left)
            elif self.listing is not None and self.listing.error:
                raise self.listing.error
            elif self.totals is not None and not listing:
                return
            else:
                time.sleep(WAIT)

    def _left(self) -> list[int]:
        done = {found.name for found in self._folder.files()}
        listed = (
            range(self.totals.shards)
            if self.totals
            else [int(found.name.split(".")[0]) for found in self._folder.files(manifest.SEGMENTS)]
        )
        mine = (n for n in listed if n % self._share.of == self._share.index and n not in self._given)
        return [n for n in mine if part(n) not in done]

    def _some(self, left: list[int]) -> Iterator[int]:
        until = time.monotonic() + REFRESH
        random.shuffle(left)
        for shard in left:
            self._given.add(shard)
            yield shard
            if time.monotonic() > until:
                return


def start(
    folder: Folder, deployment: Deployment, photos: Iterable[Photo], options: dict[str, Any], share: Share
) -> Shards:
    """Claim the folder and have the sources listed by the first share's run, unless they are. Raises JobError."""
    listing, left = None, iter(photos)
    if share.index == 0 and manifest.totals(folder) is None:
        first = list(islice(left, 1))  # a source that does not exist claims no folder
        listing = Listing(folder, chain(first, left), options["shard_size"])
    claim(folder, deployment, options)
    if listing is not None:
        listing.start()
    return Shards(folder, share, listing)


def run_here(folder: Folder, scorer: Scorer, shards: Iterable[int], tick: Tick) -> list[int]:
    """Score shards on this machine's cores. Returns those that failed; each failure is logged."""
    failed = []
    for shard in shards:
        try:
            tried(folder, scorer, shard, tick)
        except Exception as error:  # whatever it is, the other shards are finished
            log.error("shard %d failed %d times: %s", shard, TRIES, error or type(error).__name__)
            failed.append(shard)
    return failed


def tried(folder: Folder, scorer: Scorer, shard: int, tick: Tick) -> None:
    """`score_shard` at most TRIES times, with pauses between; what the last one raises is raised."""
    for attempt in range(1, TRIES):
        try:
            return score_shard(folder, scorer, shard, tick)
        except Exception as error:
            log.warning("shard %d failed, to be tried again: %s", shard, error or type(error).__name__)
            time.sleep(PAUSE * 4 ** (attempt - 1))
    return score_shard(folder, scorer, shard, tick)


class Status(NamedTuple):
    """How far a job is. `photos` is None while the sources are being listed; times in seconds."""

    photos: int | None
    shards: int
    parts: int
    counts: Counter[str]
    per_second: float | None
    left: float | None

    def words(self) -> str:
        """As a line for people."""
        scored = self.counts.total()
        of = f"{self.photos:,}" if self.photos is not None else "a number still being listed"
        rate = f"{self.per_second:.1f} photos/s" if self.per_second else "no rate yet"
        left = f", {self.left / 3600:.2f} h left" if self.left else ""
        return f"{self.parts} of {self.shards} parts, {scored:,} of {of} photos, {describe(self.counts)}; {rate}{left}"


def status(folder: Folder) -> Status:
    """How far a job is, by what lies in its folder; the rate is that of the last 20 parts. Raises JobError."""
    if _read_json(folder, JOB) is None:
        raise JobError(f"{folder.at(JOB)} is missing: this is no job's folder")
    totals = manifest.totals(folder)
    parts = sorted((f for f in folder.files() if f.name.startswith("part-")), key=lambda found: found.modified)
    with ThreadPoolExecutor(READERS) as pool:
        counted = list(pool.map(lambda found: _counts(folder, found.name), parts))
    counts = sum(counted, Counter[str]())
    recent = counted[-20:]
    elapsed = parts[-1].modified - parts[-len(recent)].modified if parts else 0
    rate = sum(part.total() for part in recent[1:]) / elapsed if elapsed > 0 else None
    left = (totals.photos - counts.total()) / rate if totals and rate else None
    shards = totals.shards if totals else len(folder.files(manifest.SEGMENTS))
    return Status(totals.photos if totals else None, shards, len(parts), counts, rate, left)


def finish(folder: Folder) -> Counter[str]:
    """Write _SUCCESS if all parts are there. Returns the totals so far."""
    now = status(folder)
    if now.photos is not None and now.parts == now.shards:
        folder.write(SUCCESS, json.dumps({"photos": now.photos, "parts": now.parts, **now.counts}).encode())
        folder.clean()
    return now.counts


def describe(counts: Counter[str]) -> str:
    """Counts by label in words."""
    return ", ".join(f"{number:,} {label}" for label, number in sorted(counts.items())) or "none"


def _counts(folder: Folder, name: str) -> Counter[str]:
    with open_file(folder.at(name), FOOTER) as file:
        found = extra("pyarrow.parquet").ParquetFile(file).schema_arrow.metadata
        return Counter(json.loads(found[b"counts"]))


def _read_json(folder: Folder, name: str) -> dict[str, Any] | None:
    content = folder.read(name)
    try:
        return None if content is None else dict(json.loads(content))
    except ValueError as error:
        raise JobError(f"{folder.at(name)} is not one of ours: {error}") from None
