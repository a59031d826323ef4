"""Going on with the CSV that an earlier run left."""

from __future__ import annotations

import csv
import io
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from serving.batch.photos import Photo
from serving.batch.scorer import Row, Scorer
from serving.verdict.errors import UserError
from serving.verdict.rule import Rule

CHECKED = 3  # rows whose photos are scored again before a CSV is gone on with
SAME = 1e-3  # p_clean of one model and photo on two machines differ by less


def to_csv(row: Row) -> list[str]:
    """A row as the CSV has it: numbers with six decimals."""
    return [f"{value:.6f}" if isinstance(value, float) else value or "" for value in row]


def csv_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    """Lines of CSV; of paths that are not UTF-8, the bytes."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode(errors="surrogateescape")


def written(out: Path, rule: Rule) -> list[Row]:
    """The whole rows of a CSV that an earlier run left; a last one that was cut short is not among them.

    Raises UserError unless they were written by this program with this rule.
    """
    if not out.exists():
        return []
    content = out.read_bytes()
    whole = content[: content.rfind(b"\n") + 1].decode(errors="surrogateescape")
    try:
        header, *lines = list(csv.reader(io.StringIO(whole, newline=""))) or [[]]
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
