"""Rows -> a file in the format that its name ends in, and back from a CSV that an earlier run left.

.jsonl and .parquet appear whole or not at all.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.batch.scorer import Row, Scorer
from serving.engine.cars import judge
from serving.engine.deployment import Deployment
from serving.inference.verdict.errors import UserError
from serving.inference.verdict.rule import UNUSABLE, Rule
from serving.stores import Photo, extra, failing
from serving.whole import whole

log = logging.getLogger(__name__)

ENDINGS = (".csv", ".jsonl", ".parquet")
CHECKED = 3  # rows whose photos are scored again before a CSV is gone on with
SAME = 1e-3  # p_clean of one model and photo on two machines differ by less
CAR_COLUMNS = ("car", "label", "p_clean", "threshold", "certified", "views", "not_usable")

Write = Callable[[Row], object]


def csv_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    """Lines of CSV, floats with six decimals; of paths that are not UTF-8, the bytes."""
    text = io.StringIO(newline="")
    spelled = ([f"{value:.6f}" if isinstance(value, float) else value for value in row] for row in rows)
    csv.writer(text).writerows(spelled)
    return text.getvalue().encode(errors="surrogateescape")


def printable(path: str) -> str:
    """A path in UTF-8; bytes that are not are escaped."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def table(rows: Sequence[Row], ids: Sequence[int], deployment: Deployment) -> Any:
    """Rows as an Arrow table."""
    pa = extra("pyarrow")
    columns = {
        "id": (pa.int64(), ids),
        "path": (pa.string(), [printable(row.path) for row in rows]),
        "label": (pa.string(), [row.label or None for row in rows]),
        "p_clean": (pa.float32(), [row.p_clean for row in rows]),
        "threshold": (pa.float64(), [row.threshold for row in rows]),
        "certified": (pa.bool_(), [deployment.certified] * len(rows)),
        "error": (pa.string(), [row.error or None for row in rows]),
        "model": (pa.string(), [deployment.version] * len(rows)),
    }
    return pa.table({name: pa.array(values, kind) for name, (kind, values) in columns.items()})


@contextmanager
def writing(out: Path, deployment: Deployment, done: Sequence[Row] = ()) -> Generator[Write, None, None]:
    """Gives the function that writes a row; a CSV begins with what is `done`. Raises UserError."""
    try:
        if out.name.endswith(".csv"):
            with whole(out) as before:  # what an earlier run left is never half there
                before.write(csv_bytes([Row._fields, *done]))
            with out.open("ab", buffering=0) as lines:
                yield lambda row: lines.write(csv_bytes([row]))
                os.fsync(lines.fileno())
            return
        with whole(out) as file:
            if out.name.endswith(".jsonl"):
                common = {"certified": deployment.certified, "model": deployment.version}
                yield lambda row: file.write(json.dumps(row._asdict() | common).encode() + b"\n")
            else:
                rows: list[Row] = []
                yield rows.append
                content = table(rows, range(len(rows)), deployment)
                extra("pyarrow.parquet").write_table(content, file, compression="zstd")
    except OSError as error:  # of reading a photo, its row tells
        left = "; what it holds stays, --resume adds the rest" if out.name.endswith(".csv") and out.is_file() else ""
        raise UserError(f"cannot write {out}: {error.strerror}{left}") from error


def write_cars(out: Path, rows: Iterable[Row], regex: str, deployment: Deployment, min_views: int) -> None:
    """A CSV with a line for each car, by name; `regex` captures it from a path, and a photo without one is a car of
    its own."""
    cars: dict[str, list[Row]] = defaultdict(list)
    captured = False
    for row in rows:
        found = re.search(regex, row.path)
        captured |= bool(found and found[1])
        cars[(found and found[1]) or row.path].append(row)
    if cars and not captured:
        log.warning("--car-regex %s captures nothing of any path: each photo is a car of its own", regex)
    lines: list[tuple[object, ...]] = [CAR_COLUMNS]
    for car, views in sorted(cars.items()):
        usable = {row.path: row.p_clean for row in views if row.p_clean is not None}  # listed twice, one view
        missing = len(views) - len(usable)
        if len(usable) < min_views:
            lines.append((car, UNUSABLE, "", "", False, len(usable), missing))
        else:
            one = judge([*usable.values()], deployment.predictor.threshold, deployment.rule)
            lines.append((car, one.label, one.p_clean, one.threshold, one.certified, len(usable), missing))
    with failing(f"cannot write {out}"), whole(out) as file:
        file.write(csv_bytes(lines))


def written(out: Path, rule: Rule) -> list[Row]:
    """The whole rows of a CSV that an earlier run left; a last one that was cut short is not among them.

    Raises UserError unless they were written by this program with this rule.
    """
    if not out.exists():
        return []
    content = out.read_bytes()
    complete = content[: content.rfind(b"\n") + 1].decode(errors="surrogateescape")
    try:
        header, *lines = list(csv.reader(io.StringIO(complete, newline=""))) or [[]]
        rows = [_row(*line) for line in lines if len(line) == len(Row._fields)]
    except (csv.Error, ValueError) as error:
        raise UserError(f"{out} was not written by this program: {error}") from None
    if content and header != list(Row._fields):
        raise UserError(f"{out} does not begin with {','.join(Row._fields)}")
    for row in rows:
        if row.threshold is not None and f"{row.threshold:.6f}" != f"{rule.t_clean:.6f}":
            raise UserError(f"{out} was written with threshold {row.threshold:.6f}, now it is {rule.t_clean:.6f}")
        if row.p_clean is not None and row.label not in {rule.decide(row.p_clean + last) for last in (-1e-6, 0, 1e-6)}:
            raise UserError(f"{out} calls p_clean={row.p_clean} {row.label}; with the T_low of now it is not")
    return rows


def _row(path: str, label: str, p_clean: str, threshold: str, error: str) -> Row:
    return Row(path, label, float(p_clean) if p_clean else None, float(threshold) if threshold else None, error)


def matched(rows: Iterable[Row], photos: Iterable[Photo]) -> tuple[list[tuple[Photo, Row]], list[Photo]]:
    """The photos that have a row already, and those that have none; one that is listed twice has two rows."""
    found: dict[str, deque[Row]] = defaultdict(deque)
    for row in rows:
        found[row.path].append(row)
    done, left = list[tuple[Photo, Row]](), list[Photo]()
    for photo in photos:
        if found[photo.path]:
            done.append((photo, found[photo.path].popleft()))
        else:
            left.append(photo)
    return done, left


def check_model(scorer: Scorer, done: Sequence[tuple[Photo, Row]], out: Path) -> None:
    """Score a few photos of an earlier run again. Raises UserError where this model says something else of one."""
    verdicts = [(photo, row) for photo, row in done if row.p_clean is not None]
    some = [verdicts[i * len(verdicts) // CHECKED] for i in range(CHECKED)] if verdicts else []
    for (_, before), now in zip(some, scorer.rows([photo for photo, _ in some]), strict=True):
        if now.p_clean is not None and abs(now.p_clean - (before.p_clean or 0)) > SAME:
            raise UserError(
                f"{out} has p_clean={before.p_clean} for {before.path}, now it is {now.p_clean}: another model wrote "
                f"it, or the photo has changed"
            )
