"""`python -m serving.batch SOURCE… --out OUT`: a verdict for every photo, as the service gives it.

SOURCE: files, folders, globs, lists of paths or URLs (.txt, .csv, .parquet), .tar archives, videos, URLs, and
prefixes or patterns of object stores (s3://, gs://, az://). OUT: a file .csv, .jsonl or .parquet; without it, words on
the screen; a folder or prefix makes a job, which the same command goes on with, and other machines can share.
Rows are in the order of the sources, whatever finishes first. Exit code: 0 all photos have a verdict, 1 some have
an error instead, 2 it could not be done, the message says why, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import closing, nullcontext
from pathlib import Path

from tqdm import tqdm

from serving.batch import Row, Scorer, cars, cluster, job, load, resume, sheet
from serving.batch.folder import Folder
from serving.batch.photos import Photo
from serving.batch.results import ENDINGS, writing
from serving.batch.sources import URLS, chosen, find
from serving.near_misses import near_misses
from serving.verdict.errors import UserError

log = logging.getLogger(__name__)

OPTIONS = ("source", "column", "sample", "seed", "limit", "every", "shard_size")  # what a job is, beside its model
FILE_SHARD = 250  # photos in a part of a job that becomes a file: nobody waits long for the last of them


def run(scorer: Scorer, args: argparse.Namespace) -> Counter[str]:
    """Score the sources into a file, or onto the screen. Returns how many rows have each label, and `error`."""
    out = Path(args.out) if args.out else None
    listed = list(_listed(args, args.out))
    done: list[Row] = []
    if out and args.resume:
        done = resume.written(out, scorer.deployment.rule)
        resume.check_model(scorer, done, {photo.path: photo for photo in listed}, out)
    known = {row.path: row for row in done}
    left = [photo for photo in listed if photo.path not in known]
    counts = Counter(row.label or "error" for row in done)
    results = [(photo, known[photo.path]) for photo in listed if photo.path in known]
    with (
        writing(out, scorer.deployment, done) if out else nullcontext(lambda row: print(words(row, scorer))) as write,
        closing(scorer.rows(left, remote=any(photo.location.startswith(URLS) for photo in left))) as rows,
        tqdm(total=len(done) + len(left), initial=len(done), unit="photo", disable=None if out else True) as progress,
    ):
        for photo, row in zip(left, rows, strict=True):
            write(row)
            counts[row.label or "error"] += 1
            progress.update()
            if args.sheet or args.car_regex:
                results.append((photo, row))
    if args.sheet:
        sheet.write(args.sheet, results, scorer)
    if args.car_regex and out:
        rows_of_all = (row for _, row in results)
        cars.write(out.with_suffix(".cars.csv"), rows_of_all, args.car_regex, scorer.deployment, scorer.min_views)
    return counts


def _listed(args: argparse.Namespace, skip: str | None) -> Iterable[Photo]:
    found = find(args.source, column=args.column, skip=skip, every=args.every)
    return chosen(found, args.limit, args.sample, args.seed)


def words(row: Row, scorer: Scorer) -> str:
    """A row as a sentence."""
    if row.p_clean is None or row.threshold is None:
        return f"{row.path}: no verdict, {row.error}"
    certified = "certified" if scorer.deployment.certified else "not certified"
    return f"{row.path}: {row.label} (p_clean {row.p_clean:.3f}; clean from {row.threshold:.3f} on, {certified})"


def run_job(scorer: Scorer, args: argparse.Namespace) -> Counter[str]:
    """Score the sources into a job's folder. Returns the totals so far; those of failed shards count as errors."""
    folder = Folder(args.out)
    args.source = [
        source if source.startswith((*URLS, "file://")) else os.path.abspath(source) for source in args.source
    ]
    options = {name: getattr(args, name) for name in OPTIONS}
    listed = _listed(args, folder.url)
    shards = job.start(folder, scorer.deployment, listed, options, job.Share(args.shard, args.shard_of))
    with tqdm(unit="photo", disable=None, initial=job.status(folder).counts.total()) as progress:

        def tick(photos: int) -> None:
            progress.total = shards.totals.photos if shards.totals else None
            progress.update(photos)

        if args.ray:
            failed = cluster.run(args.ray, args.workers, folder, scorer, shards, tick)
        else:
            failed = job.run_here(folder, scorer, shards, tick)
    counts = job.finish(folder)
    if args.sheet:
        sheet.write(args.sheet, job.results(folder), scorer)
    if failed:
        log.error("shards %s failed; the same command tries them again", ", ".join(map(str, failed)))
    return counts + Counter(error=len(failed))


def run_into_file(scorer: Scorer, args: argparse.Namespace) -> Counter[str]:
    """Score the sources on Ray, as a hidden job that becomes a file when it is complete."""
    out = Path(args.out)
    hidden = out.with_name(f".{out.name}.job")
    counts = run_job(scorer, argparse.Namespace(**vars(args) | {"out": str(hidden), "shard_size": FILE_SHARD}))
    if (hidden / job.SUCCESS).exists():
        with writing(out, scorer.deployment) as write:
            for _, row in job.results(Folder(str(hidden))):
                write(row)
        shutil.rmtree(hidden)
    return counts


def parse(arguments: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.batch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", nargs="*", metavar="SOURCE")
    add("--out", help=f"a file {', '.join(ENDINGS)}, or the folder or prefix of a job")
    add(
        "--resume",
        action="store_true",
        help="keep the rows that a CSV holds and add the missing ones; a job always does",
    )
    add("--sheet", type=Path, metavar="PAGE.html", help="a page with thumbnails too, worst first")
    add(
        "--car-regex",
        type=_regex,
        metavar="REGEX",
        help="captures the car from a path: verdicts on cars in OUT.cars.csv",
    )
    add("--column", help="the column of a list that has the paths or URLs")
    add("--every", type=_seconds, default=1.0, metavar="1s", help="of a video, score a frame every so many seconds")
    add("--sample", type=_positive, metavar="N", help="score N photos, drawn at random")
    add("--seed", type=int, default=0, help="of --sample")
    add("--limit", type=_positive, metavar="N", help="score the first N photos")
    add("--workers", type=_positive, metavar="N", help="cores to use, by default all")
    add("--shard-size", type=_positive, default=10_000, metavar="N", help="photos in a part of a job")
    add("--shard-of", type=_positive, default=1, metavar="N", help="runs that share a job; this is number --shard")
    add("--shard", type=int, default=0, metavar="I", help="0 to N - 1; run 0 lists the sources")
    add("--ray", nargs="?", const=cluster.EMBEDDED, metavar="ADDRESS", help="score on a Ray cluster, or one of its own")
    add("--status", action="store_true", help="tell how far the job in --out is")
    args = parser.parse_args(arguments)
    args.job = args.out is not None and not args.out.endswith(ENDINGS)
    if args.status != (not args.source):
        parser.error("name a SOURCE, or --status alone with --out")
    if args.status and not args.job:
        parser.error("--status tells of a job: name its folder as --out")
    if args.car_regex and (args.job or not args.out or args.ray):
        parser.error("--car-regex goes with a file as --out, without --ray")
    if not args.job and args.out and args.out.startswith(URLS):
        parser.error(f"--out {args.out}: a single file is written to a disk; name a prefix for a job")
    if args.ray and not args.out:
        parser.error("--ray needs --out")
    if args.resume and not args.job and not (args.out or "").endswith(".csv"):
        parser.error("--resume goes on with a CSV or a job")
    if not 0 <= args.shard < args.shard_of or (args.shard_of > 1 and not args.job):
        parser.error("--shard must be from 0 to --shard-of - 1, and --out a job's folder")
    return parser, args


def main(arguments: list[str] | None = None) -> int:
    """The command line; model, threshold and limits come from the environment, as for the service."""
    parser, args = parse(arguments)
    logging.basicConfig(format="%(levelname)s %(message)s")
    for warning in near_misses(os.environ):
        log.warning(warning)
    try:
        if args.status:
            print(job.status(Folder(args.out)).words())
            return 0
        way = run_job if args.job else run_into_file if args.ray else run
        counts = way(load(workers=args.workers), args)
    except (UserError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        ways = "; the same command goes on" if args.job else f"; --resume goes on with what {args.out} holds"
        print(f"stopped{ways if args.job or (args.out or '').endswith('.csv') else ''}", file=sys.stderr)
        return 130
    if args.out:
        print(f"{counts.total():,} photos: {job.describe(counts)}; written to {args.out}", file=sys.stderr)
    return 1 if counts["error"] else 0


def _regex(text: str) -> str:
    try:
        if re.compile(text).groups:
            return text
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    raise argparse.ArgumentTypeError(f"{text!r} needs a group in brackets around the car's id")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _seconds(text: str) -> float:
    if not 0.001 <= (seconds := float(text.removesuffix("s"))) < 1e6:
        raise ValueError
    return seconds


if __name__ == "__main__":
    sys.exit(main())
