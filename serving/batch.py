"""`python -m serving.batch FOLDER --out predictions.csv`: a verdict for every photo in a folder, as the service does.

Rows are written in the order of the paths, whatever finishes first. Exit code: 0 all photos have a verdict, 1 some have
an error instead, 2 nothing could be done, 130 stopped by Ctrl-C (`--resume` goes on).
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from serving.expected import ExpectedError
from serving.scorer import Row, Scorer
from serving.served import load
from serving.settings import Settings


class ResumeError(ExpectedError):
    """The CSV to go on with is not one of ours, or comes from another threshold."""


def find(folder: Path, out: Path) -> list[str]:
    """Every file below a folder, sorted by relative path; hidden ones and the CSV itself are left out.

    A link that leads nowhere and a folder that cannot be listed are among them: each gets a row that says so.
    """
    found = []

    def unreadable(error: OSError) -> None:
        found.append(Path(error.filename).relative_to(folder).as_posix())

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        found += [path.relative_to(folder).as_posix() for path in paths if path.is_file() or path.is_symlink()]
    return sorted(set(found) - {os.path.relpath(out, folder)})


def written(out: Path, t_clean: float) -> list[Row]:
    """The whole rows of a CSV that an earlier run left; a last one that was cut short is not among them.

    Raises ResumeError unless they were written by this program with this threshold.
    """
    if not out.exists():
        return []
    with out.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        lines = list(csv.reader(file))
        whole = not lines or _ends_line(out)
    if lines and lines[0] != list(Row._fields):
        raise ResumeError(f"{out} does not begin with {','.join(Row._fields)}")
    rows = [Row(*line) for line in lines[1 : None if whole else -1] if len(line) == len(Row._fields)]
    other = next((row for row in rows if row.threshold not in ("", f"{t_clean:.6f}")), None)
    if other is not None:
        raise ResumeError(f"{out} was written with threshold {other.threshold}, now it is {t_clean:.6f}")
    return rows


def run(settings: Settings, folder: Path, out: Path, *, resume: bool) -> Counter[str]:
    """Score a folder into a CSV. Returns how many rows have each label, and `error`."""
    served = load(settings, settings.model_path, settings.threshold_path)
    done = written(out, served.rule.t_clean) if resume else []
    known = {row.path for row in done}
    left = [path for path in find(folder, out) if path not in known]
    start = out.with_name(out.name + ".part")
    with start.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([Row._fields, *done])
        file.flush()
        os.fsync(file.fileno())
    start.replace(out)  # what an earlier run left is never half there
    counts = Counter(row.label or "error" for row in done)
    with (
        out.open("a", newline="", encoding="utf-8", errors="surrogateescape", buffering=1) as file,
        closing(Scorer(served, settings, folder).rows(left)) as rows,
        tqdm(total=len(known) + len(left), initial=len(known), unit="photo", disable=None) as progress,
    ):
        writer = csv.writer(file)
        for row in rows:
            writer.writerow(row)
            counts[row.label or "error"] += 1
            progress.update()
        os.fsync(file.fileno())
    return counts


def main(arguments: list[str] | None = None) -> int:
    """The command line; model, threshold and limits come from the environment, as for the service."""
    parser = argparse.ArgumentParser(prog="python -m serving.batch", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the CSV to write")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there and add the missing ones")
    args = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s %(message)s")
    if not args.folder.is_dir():
        parser.error(f"{args.folder} is not a folder")
    try:
        counts = run(Settings.from_env(), args.folder, args.out, resume=args.resume)
    except (ExpectedError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print(f"stopped; {args.out} holds what was done, --resume adds the rest", file=sys.stderr)
        return 130
    summary = ", ".join(f"{number} {label}" for label, number in sorted(counts.items()))
    print(f"{counts.total()} photos: {summary or 'none found'}; written to {args.out}", file=sys.stderr)
    return 1 if counts["error"] else 0


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


if __name__ == "__main__":
    sys.exit(main())
