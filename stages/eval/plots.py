"""The tables that `dvc plots` draws, small CSVs under reports/eval."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from serving.inference.verdict.rule import CLASSES
from stages.common.base.files import csv_bytes
from stages.eval.metrics import Bools, Floats, reliability

POINTS = 200  # of a curve: no screen shows more


def plots(
    folder: Path, is_clean: Bools, logit: Floats, p_clean: Floats, uncalibrated: Floats, bins: int
) -> dict[Path, bytes]:
    """The files below `folder`: ROC, precision-recall of both classes, confusion at 0.5, reliability before and after
    calibration, histogram of the scores.

    One file per curve, as DVC's templates draw a line per file or column.
    """
    tables: dict[str, tuple[list[str], Iterable[Sequence[Any]]]] = {}
    fpr, tpr, _ = roc_curve(is_clean, p_clean)
    tables["roc"] = ["false_clean_rate", "recall_clean"], _thin(fpr, tpr)
    for name, truth, score in (("clean", is_clean, p_clean), ("dirty", ~is_clean, 1 - p_clean)):
        precision, recall, _ = precision_recall_curve(truth, score)
        tables[f"precision_recall_{name}"] = ["recall", name], _thin(recall[::-1], precision[::-1])
    names = np.array(CLASSES)
    said = names[(p_clean >= 0.5).astype(int)]
    tables["confusion"] = ["actual", "predicted"], zip(names[is_clean.astype(int)], said, strict=True)
    for name, p in (("before", uncalibrated), ("after", p_clean)):
        rows = [(mean, share) for mean, share, _ in reliability(is_clean, p, bins)]
        tables[f"calibration_{name}"] = ["p_clean", name], rows
    edges = np.histogram_bin_edges(logit, 40)
    counts = [np.histogram(logit[members], edges)[0].tolist() for members in (is_clean, ~is_clean)]
    middles = ((edges[1:] + edges[:-1]) / 2).round(4).tolist()
    tables["histogram"] = ["logit", "clean", "dirty"], zip(middles, *counts, strict=True)
    return {folder / f"{name}.csv": csv_bytes(header, rows) for name, (header, rows) in tables.items()}


def _thin(x: Floats, y: Floats) -> list[tuple[float, float]]:
    """At most POINTS of a curve, both ends among them."""
    picked = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int))
    return [(round(float(x[i]), 5), round(float(y[i]), 5)) for i in picked]
