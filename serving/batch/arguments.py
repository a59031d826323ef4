"""The command line of `python -m serving.batch`."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from serving.batch.cluster import EMBEDDED
from serving.batch.lists import local
from serving.batch.results import ENDINGS
from serving.stores import URLS

PROGRAM = "python -m serving.batch"
DESCRIPTION = """\
`python -m serving.batch SOURCE… --out OUT`: a verdict for every photo, as the service gives it.

SOURCE: files, folders, globs, lists of paths or URLs (.txt, .csv, .parquet), .tar archives, videos, URLs, and
prefixes or patterns of object stores (s3://, gs://, az://). OUT: a file .csv, .jsonl or .parquet; without it, words on
the screen; a folder or prefix makes a job, which the same command goes on with, and other machines can share.
Rows are in the order of the sources, whatever finishes first. Exit code: 0 all photos have a verdict, 1 some have
an error instead, 2 it could not be done, the message says why, 130 stopped by Ctrl-C.
"""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; `job` is whether --out is a folder or prefix, `own` all that is written. What cannot be met ends the
    program with code 2."""
    parser = _parser()
    args = parser.parse_args(arguments)
    empty, out = args.out == "", local(args.out or "")
    args.out = out = out.rstrip("/") or out[:1]
    args.job = bool(out) and not out.endswith(ENDINGS)
    args.cars = Path(out).with_suffix(".cars.csv") if args.car_regex and out else None
    args.own = [str(path) for path in (out, args.sheet, args.cars) if path]
    wrong = {
        "name a SOURCE, or --status alone with --out": args.status == bool(args.source),
        "--status tells of a job: name its folder as --out": args.status and not args.job,
        "--car-regex goes with a file as --out, without --ray": args.car_regex and (args.job or not out or args.ray),
        "--out: a single file is written to a disk; name a prefix for a job": not args.job and out.startswith(URLS),
        "--out is empty": empty,
        "--out is a file, a folder, or a prefix of an object store": out.startswith(("http://", "https://")),
        "--out: its ending in small letters makes it a file": args.job and out.lower().endswith(ENDINGS),
        "--out and --sheet are one file": args.sheet and args.sheet == Path(out),
        "--sheet: its folder does not exist": args.sheet and not args.sheet.parent.is_dir(),
        "--ray needs --out": args.ray and not out,
        "--resume goes on with a CSV or a job": args.resume and not args.job and not out.endswith(".csv"),
        "--shard must be from 0 to --shard-of - 1": not 0 <= args.shard < args.shard_of,
        "--shard-of needs a job's folder as --out": args.shard_of > 1 and not args.job,
    }
    for message, applies in wrong.items():
        if applies:
            parser.error(message)
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", nargs="*", metavar="SOURCE")
    add("--out", help=f"a file {', '.join(ENDINGS)}, or the folder or prefix of a job")
    add("--resume", action="store_true", help="keep the rows of a CSV and add the missing ones; a job always does")
    add("--sheet", type=Path, metavar="PAGE.html", help="a page with thumbnails too, worst first")
    add("--car-regex", type=_regex, metavar="REGEX", help="captures the car from a path: verdicts in OUT.cars.csv")
    add("--column", help="the column of a list that has the paths or URLs")
    add("--every", type=seconds, default=1.0, metavar="1s", help="of a video, score a frame every so many seconds")
    add("--sample", type=count, metavar="N", help="score N photos, drawn at random")
    add("--seed", type=int, default=0, help="of --sample")
    add("--limit", type=count, metavar="N", help="score the first N photos")
    add("--workers", type=count, metavar="N", help="cores to use, by default all")
    add("--shard-size", type=count, default=10_000, metavar="N", help="photos in a part of a job")
    add("--shard-of", type=count, default=1, metavar="N", help="runs that share a job; this is number --shard")
    add("--shard", type=int, default=0, metavar="I", help="0 to N - 1; run 0 lists the sources")
    add("--ray", nargs="?", const=EMBEDDED, metavar="ADDRESS", help="score on a Ray cluster, or one of its own")
    add("--status", action="store_true", help="tell how far the job in --out is")
    return parser


def _regex(text: str) -> str:
    try:
        if re.compile(text).groups:
            return text
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    raise argparse.ArgumentTypeError(f"{text!r} needs a group in brackets around the car's id")


def count(text: str) -> int:
    if 0 < (number := int(text)) <= sys.maxsize:
        return number
    raise ValueError


def seconds(text: str) -> float:
    if not 0.001 <= (number := float(text.removesuffix("s"))) < 1e6:
        raise ValueError
    return number
