"""`python -m serving.batch SOURCE… --out OUT`: a verdict for every photo, as the service gives it (`arguments`)."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import closing, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from serving.batch import Row, Scorer, cluster, job, load, results, sheet, status
from serving.batch.arguments import PROGRAM, parse
from serving.batch.folder import Folder
from serving.batch.lists import local
from serving.batch.sources import find, sample
from serving.inference.verdict.errors import UserError
from serving.near_misses import near_misses
from serving.stores import URLS, Photo

log = logging.getLogger(__name__)

OPTIONS = ("source", "column", "sample", "seed", "limit", "every", "shard_size")  # what a job is, beside its model
FILE_SHARD = 250  # photos in a part of a job that becomes a file: nobody waits long for the last of them


def run(scorer: Scorer, args: argparse.Namespace) -> Counter[str]:
    """Score the sources into a file, or onto the screen. Returns how many rows have each label, and `error`."""
    out = Path(args.out) if args.out else None
    before = results.written(out, scorer.deployment.rule) if out and args.resume else []
    scored, left = results.matched(before, _listed(args))
    if out:
        results.check_model(scorer, scored, out)
    counts = Counter(row.label or "error" for row in before)
    with (
        results.writing(out, scorer.deployment, before) if out else nullcontext(partial(_tell, scorer)) as write,
        closing(scorer.rows(left)) as rows,
        tqdm(total=len(before) + len(left), initial=len(before), unit="photo", disable=None if out else True) as bar,
    ):
        for photo, row in zip(left, rows, strict=True):
            write(row)
            counts[row.label or "error"] += 1
            bar.update()
            if args.sheet or args.car_regex:
                scored.append((photo, row))
    if args.sheet:
        sheet.write(args.sheet, scored, scorer)
    if args.car_regex:
        results.write_cars(args.cars, (row for _, row in scored), args.car_regex, scorer.deployment, scorer.min_views)
    return counts


def _listed(args: argparse.Namespace) -> Iterable[Photo]:
    found = find(args.source, column=args.column, own=args.own, every=args.every)
    return islice(found if args.sample is None else sample(found, args.sample, args.seed), args.limit)


def _tell(scorer: Scorer, row: Row) -> None:
    verdict = f"no verdict, {row.error}"
    if row.p_clean is not None:
        certified = "certified" if scorer.deployment.certified else "not certified"
        verdict = f"{row.label} (p_clean {row.p_clean:.3f}; clean from {row.threshold:.3f} on, {certified})"
    print(f"{results.printable(row.path)}: {verdict}")


def run_job(scorer: Scorer, args: argparse.Namespace) -> Counter[str]:
    """Score the sources into a job's folder. Returns the totals so far, and how many shards `failed`."""
    folder = Folder(args.out)
    args.source = [source if source.startswith(URLS) else os.path.abspath(local(source)) for source in args.source]
    options = {name: getattr(args, name) for name in OPTIONS}
    shards = job.start(folder, scorer.deployment, _listed(args), options, args.shard, args.shard_of)
    with tqdm(unit="photo", disable=None, initial=status.read(folder).counts.total()) as progress:

        def tick(photos: int) -> None:
            progress.total = shards.totals.photos if shards.totals else None
            progress.update(photos)

        if args.ray:
            failed = cluster.run(args.ray, args.workers, folder, scorer, shards, tick)
        else:
            failed = job.run_here(folder, scorer, shards, tick)
    counts = status.finish(folder)
    if args.sheet:
        sheet.write(args.sheet, status.results(folder), scorer)
    if failed:
        log.error("shards %s failed; the same command tries them again", ", ".join(map(str, failed)))
    return counts + Counter(failed=len(failed))


def run_into_file(scorer: Scorer, args: argparse.Namespace) -> Counter[str]:
    """Score the sources on Ray, as a hidden job that becomes a file when it is complete."""
    out = Path(args.out)
    hidden = out.with_name(f".{out.name}.job")
    counts = run_job(scorer, argparse.Namespace(**vars(args) | {"out": str(hidden), "shard_size": FILE_SHARD}))
    if not (hidden / job.SUCCESS).exists():
        raise UserError(f"{out} is not written, for parts of it are missing; the same command goes on")
    with results.writing(out, scorer.deployment) as write:
        for _, row in status.results(Folder(str(hidden))):
            write(row)
    shutil.rmtree(hidden)
    return counts


def main(arguments: list[str] | None = None) -> int:
    """The command line; model, threshold and limits come from the environment, as for the service."""
    args = parse(arguments)
    logging.basicConfig(format="%(levelname)s %(message)s")
    for warning in near_misses(os.environ):
        log.warning(warning)
    try:
        if args.status:
            print(status.read(Folder(args.out)).words())
            return 0
        way = run_job if args.job else run_into_file if args.ray else run
        counts = way(load(workers=args.workers), args)
    except (UserError, OSError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = "; the same command goes on" if args.job or args.ray else ""
        if not goes_on and args.out.endswith(".csv"):
            goes_on = f"; --resume goes on with what {args.out} holds"
        print(f"stopped{goes_on}", file=sys.stderr)
        return 130
    failed = counts.pop("failed", 0)
    if args.out:
        print(f"{counts.total():,} photos: {status.describe(counts)}; written to {args.out}", file=sys.stderr)
    # A job that others start again when it fails has done its work when every photo has a row.
    return 1 if failed or (counts["error"] and not args.job) else 0


if __name__ == "__main__":
    sys.exit(main())
