"""`python -m serving.batch FOLDER --out predictions.csv`: a verdict for every photo in a folder, as the service does.

Rows are written in the order of the paths, whatever finishes first. Exit code: 0 all photos have a verdict, 1 some have
an error instead, 2 it could not be done, the message says why, 130 stopped by Ctrl-C (`--resume` goes on).
"""

from __future__ import annotations

import argparse
import csv
import io
import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from serving.engine.deployment import load
from serving.engine.scorer import Row, Scorer
from serving.near_misses import near_misses
from serving.settings import Settings
from serving.verdict.errors import UserError
from serving.verdict.rule import Rule

log = logging.getLogger(__name__)

CHECKED = 3  # rows whose photos are scored again before a CSV is gone on with
SAME = 1e-3  # p_clean of one model and photo on two machines differ by less


class ResumeError(UserError):
    """The CSV to go on with is not one of ours, or comes from another model or threshold."""


class WriteError(UserError):
    """The CSV cannot be written, or not to its end."""


def find(folder: Path, out: Path) -> list[str]:
    """Every file below a folder, sorted by relative path; hidden ones and the CSV itself are left out.

    A link that leads nowhere or to a folder, and a folder that cannot be listed, are among them: each gets a row that
    says so.
    """
    found: list[str] = []
    refused: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=refused.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [os.path.join(parent, name) for name in names if not name.startswith(".")]
        found += [path for path in paths if os.path.isfile(path) or not os.path.exists(path)]  # no pipe or socket
        found += [path for name in folders if os.path.islink(path := os.path.join(parent, name))]
    found += [error.filename for error in refused]
    relative = {Path(path).relative_to(folder).as_posix() for path in found}
    return sorted(relative - {os.path.relpath(out.resolve(), folder.resolve())})


def written(out: Path, rule: Rule) -> list[Row]:
    """The whole rows of a CSV that an earlier run left; a last one that was cut short is not among them.

    Raises ResumeError unless they were written by this program with this rule.
    """
    if not out.exists():
        return []
    content = out.read_bytes()
    whole = content[: content.rfind(b"\n") + 1].decode(errors="surrogateescape")
    try:
        header, *lines = list(csv.reader(io.StringIO(whole, newline=""))) or [[]]
        rows = [Row(*line) for line in lines if len(line) == len(Row._fields)]
        scores = [float(row.p_clean or "nan") for row in rows]
    except (csv.Error, ValueError) as error:
        raise ResumeError(f"{out} was not written by this program: {error}") from None
    if content and header != list(Row._fields):
        raise ResumeError(f"{out} does not begin with {','.join(Row._fields)}")
    for row, p_clean in zip(rows, scores, strict=True):
        if row.threshold not in ("", f"{rule.t_clean:.6f}"):
            raise ResumeError(f"{out} was written with threshold {row.threshold}, now it is {rule.t_clean:.6f}")
        if row.label and row.label not in {rule.decide(p_clean + last) for last in (-1e-6, 0, 1e-6)}:
            raise ResumeError(f"{out} calls p_clean={row.p_clean} {row.label}; with the T_low of now it is not")
    return rows


def check_model(scorer: Scorer, done: Sequence[Row], out: Path) -> None:
    """Score a few photos of an earlier run again. Raises ResumeError where this model says something else of one."""
    verdicts = [row for row in done if row.label]
    some = [verdicts[i * len(verdicts) // CHECKED] for i in range(CHECKED)] if verdicts else []
    for before, now in zip(some, scorer.rows([row.path for row in some]), strict=True):
        if now.p_clean and abs(float(now.p_clean) - float(before.p_clean)) > SAME:
            raise ResumeError(
                f"{out} has p_clean={before.p_clean} for {before.path}, now it is {now.p_clean}: another model wrote "
                f"it, or the photo has changed"
            )


def run(settings: Settings, folder: Path, out: Path, *, resume: bool) -> Counter[str]:
    """Score a folder into a CSV. Returns how many rows have each label, and `error`."""
    deployment = load(settings, settings.model_path, settings.threshold_path)
    scorer = Scorer(deployment, settings, folder)
    done = written(out, deployment.rule) if resume else []
    check_model(scorer, done, out)
    known = {row.path for row in done}
    left = [path for path in find(folder, out) if path not in known]
    try:
        return _write(out, done, scorer, left)
    except OSError as error:  # of reading a photo, its row tells
        raise WriteError(
            f"cannot write {out}: {error.strerror}; what it holds stays, --resume adds the rest"
        ) from error


def _write(out: Path, done: Sequence[Row], scorer: Scorer, left: Sequence[str]) -> Counter[str]:
    start = out.with_name(out.name + ".part")
    with start.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([Row._fields, *done])
        file.flush()
        os.fsync(file.fileno())
    start.replace(out)  # what an earlier run left is never half there
    counts = Counter(row.label or "error" for row in done)
    with (
        out.open("a", newline="", encoding="utf-8", errors="surrogateescape", buffering=1) as file,
        closing(scorer.rows(left)) as rows,
        tqdm(total=len(done) + len(left), initial=len(done), unit="photo", disable=None) as progress,
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
    for warning in near_misses(os.environ):
        log.warning(warning)
    if not args.folder.is_dir():
        parser.error(f"{args.folder} is not a folder")
    try:
        counts = run(Settings.from_env(), args.folder, args.out, resume=args.resume)
    except (UserError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print(f"stopped; --resume goes on with what {args.out} holds", file=sys.stderr)
        return 130
    summary = ", ".join(f"{number} {label}" for label, number in sorted(counts.items()))
    print(f"{counts.total()} photos: {summary or 'none found'}; written to {args.out}", file=sys.stderr)
    return 1 if counts["error"] else 0


if __name__ == "__main__":
    sys.exit(main())
