"""judgements.csv -> the outcomes that count, in the order they were judged."""

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from serving.inference.verdict.rule import CLEAN, DIRTY
from stages.common.base.errors import StageError
from tools.table import read_table

UNSURE = "unsure"
VERDICTS = (CLEAN, DIRTY, UNSURE)
REQUIRED = ("photo", "verdict")
COLUMNS = (*REQUIRED, "judge", "share", "model", "judged_at")


@dataclass(frozen=True)
class Outcomes:
    """The photos that count, `[N]` in the order they were judged; how many do not and why; how far judges agree."""

    dirty: NDArray[np.bool_]
    share: NDArray[np.float64]  # of the photos called clean that were marked for judging
    judged_at: list[str]
    model: str
    other_models: int  # judgements
    unsure: NDArray[np.float64]  # share of each photo that a judge could not tell, or that judges see differently
    waiting: int  # photos that fewer judges have seen than are asked for
    twice: int  # photos that two judges or more have a clear opinion of
    agree: int  # of those: they have the same one
    kappa: float | None  # Cohen's, of the first two judges of a photo; None where chance agreement is certain


def read(path: Path, judges: int = 1, model: str | None = None) -> Outcomes:
    """What counts of a CSV; of the last judged model where none is named. Raises StageError naming the line at fault.

    A photo counts once, when as many judges as asked for have seen it; where they disagree it counts as unsure. A
    judge who judges a photo again corrects the first judgement, and keeps its place in the order.
    """
    rows = read_rows(path)
    if not rows:
        raise StageError(f"{path} holds no judgements yet")
    model = rows[-1]["model"] if model is None else model
    chosen = [row for row in rows if row["model"] == model]
    if not chosen:
        raise StageError(f"{path} has judgements of {sorted({row['model'] for row in rows})}, none of model {model!r}")
    if len({row["share"] == "" for row in chosen}) > 1:
        raise StageError(f"{path}: of model {model!r} some lines have a share and some have none: weights need all")
    said = defaultdict[str, dict[str, str]](dict)
    complete: dict[str, dict[str, str]] = {}  # the row that made a photo count
    for row in chosen:
        said[row["photo"]][row["judge"]] = row["verdict"]
        if len(said[row["photo"]]) == judges:
            complete.setdefault(row["photo"], row)
    counted, unsure = [], list[float]()
    for photo, row in complete.items():
        verdicts = set(list(said[photo].values())[:judges])
        if len(verdicts) == 1 and UNSURE not in verdicts:
            counted.append((row, verdicts == {DIRTY}))
        else:
            unsure.append(float(row["share"] or 1))
    clear = [[v for v in by.values() if v != UNSURE] for by in said.values()]
    pairs = [(v[0], v[1]) for v in clear if len(v) >= 2]
    undefined = len({verdict for pair in pairs for verdict in pair}) < 2
    return Outcomes(
        dirty=np.array([dirty for _, dirty in counted], bool),
        share=np.array([float(row["share"] or 1) for row, _ in counted]),
        judged_at=[row["judged_at"] for row, _ in counted],
        model=model, other_models=len(rows) - len(chosen), unsure=np.array(unsure), waiting=len(said) - len(complete),
        twice=len(pairs), agree=sum(a == b for a, b in pairs),
        kappa=None if undefined else float(cohen_kappa_score(*zip(*pairs, strict=True))),
    )  # fmt: skip


def unanimous(path: Path) -> tuple[dict[str, str], int]:
    """The photos that all their judges call clean, or all dirty, with that verdict; and the number of others. Raises
    StageError."""
    said = defaultdict[str, dict[str, str]](dict)
    for row in read_rows(path):
        said[row["photo"]][row["judge"]] = row["verdict"]
    found = {photo: set(by.values()) for photo, by in said.items()}
    clear = {photo: next(iter(v)) for photo, v in found.items() if len(v) == 1 and UNSURE not in v}
    return clear, len(found) - len(clear)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows; columns that may be missing are empty. A last line without its end was cut short, and is left out."""
    found = []
    for line, cells in read_table(path, REQUIRED, journal=True):
        row = {name: cells.get(name, "").strip() for name in COLUMNS}
        if not row["photo"] or row["verdict"] not in VERDICTS:
            raise StageError(f"{path}, line {line}: verdict must be {', '.join(VERDICTS)} of a photo, found {row}")
        with suppress(ValueError):
            if 0 < float(row["share"] or 1) <= 1:
                found.append(row)
                continue
        raise StageError(f"{path}, line {line}: share must be above 0 and at most 1, found {row['share']!r}")
    return found
