"""A job: many photos scored in shards into a folder, by any number of runs, one after the other or at once.

`_job.json` says what is scored and how, `manifest/` lists the photos, `part-NNNNNN.parquet` has the rows of a shard and
`_SUCCESS` the totals. Each is written whole and once; whatever is there is never scored again.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from itertools import chain, islice
from typing import Any

from serving.batch import manifest
from serving.batch.folder import JOB, Folder
from serving.batch.results import table
from serving.batch.scorer import Row, Scorer
from serving.engine.deployment import Deployment
from serving.inference.verdict.errors import UserError
from serving.stores import UNAVAILABLE, Photo

log = logging.getLogger(__name__)

PART, SUCCESS = re.compile(r"part-\d{6,}\.parquet"), "_SUCCESS"
TRIES = 3
PAUSE = 2.0  # seconds before the second try of a shard; each further one waits four times as long
REFRESH = 10.0  # seconds after which the folder is listed again for what other runs have done
WAIT = 0.5  # seconds between looks for newly listed shards

Tick = Callable[[int], object]


def claim(folder: Folder, deployment: Deployment, options: dict[str, Any]) -> None:
    """Write _job.json, or go on with the same job. Raises UserError for another one, and for a folder of other files:
    a source, perhaps."""
    if any(not name.startswith(".") for name in folder.files()) and folder.read(JOB) is None:
        raise UserError(f"{folder.url} holds other files; a job needs a folder of its own, choose another --out")
    rule = deployment.rule
    job = {
        "model": deployment.predictor.sha256,
        "decision": {"T_clean": rule.t_clean, "T_low": rule.t_low, "certified": deployment.certified},
        "limits": repr(rule.limits),  # some may be infinite, which JSON has no number for
        **options,
    }
    if folder.write_json(JOB, job):
        return
    before = folder.read_json(JOB) or {}
    if changed := [f"{key} was {before.get(key)}, now it is {job[key]}" for key in job if before.get(key) != job[key]]:
        raise UserError(f"{folder.at(JOB)} is another job's: {'; '.join(changed)}")


def score_shard(folder: Folder, scorer: Scorer, shard: int, tick: Tick = lambda _: None) -> None:
    """Score a shard into its part. Raises UserError where photos are unavailable just now."""
    ids, photos = manifest.read_segment(folder, shard)
    rows: list[Row] = []
    try:
        with closing(scorer.rows(photos)) as scored:
            for row in scored:
                if row.error.startswith(UNAVAILABLE):
                    raise UserError(f"{row.path}: {row.error}")
                rows.append(row)
                tick(1)
        counts = json.dumps(Counter(row.label or "error" for row in rows))
        folder.write_table(part(shard), table(rows, ids, scorer.deployment).replace_schema_metadata({"counts": counts}))
    except BaseException:
        tick(-len(rows))
        raise


def part(shard: int) -> str:
    return f"part-{shard:06}.parquet"


class Shards:
    """The shards of a job that are left to do, of every `of` the one at `index`, as they are listed. In random order:
    runs at once meet rarely."""

    def __init__(self, folder: Folder, listing: Future[manifest.Totals] | None, index: int, of: int) -> None:
        self._folder, self.listing, self._index, self._of = folder, listing, index, of
        self._given: set[int] = set()
        self.totals: manifest.Totals | None = None  # once all sources are listed

    def __iter__(self) -> Iterator[int]:
        """Raises what ended the listing early, after the last shard."""
        if self.listing is None and manifest.totals(self._folder) is None:
            log.warning("the run with --shard 0 has not listed all photos yet; this one waits for it")
        while True:
            listed = self.listing is None or self.listing.done()
            self.totals = self.totals or manifest.totals(self._folder)
            left, until = self._left(), time.monotonic() + REFRESH
            if left:
                while left and time.monotonic() < until:
                    self._given.add(shard := left.pop())
                    yield shard
            elif listed and self.listing and (error := self.listing.exception()):
                raise error
            elif listed and self.totals:
                return
            else:
                time.sleep(WAIT)

    def _left(self) -> list[int]:
        done = self._folder.files()
        listed: Iterable[int] = range(self.totals.shards) if self.totals else manifest.segments(self._folder)
        mine = (n for n in listed if n % self._of == self._index and n not in self._given)
        left = [n for n in mine if part(n) not in done]
        random.shuffle(left)
        return left


def start(
    folder: Folder, deployment: Deployment, photos: Iterable[Photo], options: dict[str, Any], index: int, of: int
) -> Shards:
    """Claim the folder and have the sources listed by the first of `of` runs, unless they are. Raises UserError."""
    left, to_list = iter(photos), index == 0 and manifest.totals(folder) is None
    first = list(islice(left, 1 if to_list else 0))  # a source that does not exist claims no folder
    claim(folder, deployment, options)
    listing = manifest.listing(folder, chain(first, left), options["shard_size"]) if to_list else None
    return Shards(folder, listing, index, of)


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
