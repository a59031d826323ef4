"""`python -m serving.batch SOURCE… --out OUT`: a verdict for every photo, as the service gives it.

SOURCE: files, folders, globs, lists of paths or URLs (.txt, .csv, .parquet), .tar archives, URLs, and prefixes or
patterns of object stores (s3://, gs://, az://). OUT: a file .csv, .jsonl or .parquet; without it, words on the screen.
Rows are in the order of the sources, whatever finishes first. Exit code: 0 all photos have a verdict, 1 some have
an error instead, 2 it could not be done, the message says why, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections import Counter
from contextlib import closing, nullcontext
from pathlib import Path

from tqdm import tqdm

from serving.batch import Row, Scorer, load, resume
from serving.batch.results import ENDINGS, writing
from serving.batch.sources import URLS, chosen, photos
from serving.near_misses import near_misses
from serving.verdict.errors import UserError

log = logging.getLogger(__name__)


def run(scorer: Scorer, args: argparse.Namespace) -> Counter[str]:
    """Score the sources into a file, or onto the screen. Returns how many rows have each label, and `error`."""
    out: Path | None = args.out
    listed = list(
        chosen(photos(args.source, column=args.column, skip=[out] if out else []), args.limit, args.sample, args.seed)
    )
    done: list[Row] = []
    if out and args.resume:
        done = resume.written(out, scorer.deployment.rule)
        resume.check_model(scorer, done, {photo.path: photo for photo in listed}, out)
    known = {row.path for row in done}
    left = [photo for photo in listed if photo.path not in known]
    counts = Counter(row.label or "error" for row in done)
    with (
        writing(out, scorer.deployment, done) if out else nullcontext(lambda row: print(words(row, scorer))) as write,
        closing(scorer.rows(left, remote=any(photo.location.startswith(URLS) for photo in left))) as rows,
        tqdm(total=len(done) + len(left), initial=len(done), unit="photo", disable=None if out else True) as progress,
    ):
        for row in rows:
            write(row)
            counts[row.label or "error"] += 1
            progress.update()
    return counts


def words(row: Row, scorer: Scorer) -> str:
    """A row as a sentence."""
    if row.p_clean is None or row.threshold is None:
        return f"{row.path}: no verdict, {row.error}"
    certified = "certified" if scorer.deployment.certified else "not certified"
    return f"{row.path}: {row.label} (p_clean {row.p_clean:.3f}; clean from {row.threshold:.3f} on, {certified})"


def main(arguments: list[str] | None = None) -> int:
    """The command line; model, threshold and limits come from the environment, as for the service."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.batch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", nargs="+", metavar="SOURCE")
    add("--out", type=Path, help=f"the results: a file {', '.join(ENDINGS)}")
    add("--resume", action="store_true", help="keep the rows that a CSV holds and add the missing ones")
    add("--column", help="the column of a list that has the paths or URLs")
    add("--sample", type=_positive, metavar="N", help="score N photos, drawn at random")
    add("--seed", type=int, default=0, help="of --sample")
    add("--limit", type=_positive, metavar="N", help="score the first N photos")
    add("--workers", type=_positive, metavar="N", help="cores to use, by default all")
    args = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s %(message)s")
    for warning in near_misses(os.environ):
        log.warning(warning)
    out: Path | None = args.out
    if out and out.suffix not in ENDINGS:
        parser.error(f"--out {out} must end in {', '.join(ENDINGS)}")
    if args.resume and (not out or out.suffix != ".csv"):
        parser.error("--resume goes on with a CSV")
    try:
        counts = run(load(workers=args.workers), args)
    except (UserError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        left = f"; --resume goes on with what {out} holds" if out and out.suffix == ".csv" else ""
        print(f"stopped{left}", file=sys.stderr)
        return 130
    summary = ", ".join(f"{number} {label}" for label, number in sorted(counts.items()))
    if out:
        print(f"{counts.total()} photos: {summary or 'none found'}; written to {out}", file=sys.stderr)
    return 1 if counts["error"] else 0


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
