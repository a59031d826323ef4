"""The tables that `dvc plots` draws, small CSVs under reports/eval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from stages.common.reports import write_csv
from stages.eval.metrics import reliability

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

POINTS = 200  # of a curve: no screen shows more


def write_plots(folder: Path, is_clean: Bools, logit: Floats, p_clean: Floats, uncalibrated: Floats, bins: int) -> None:
    """ROC, precision-recall of both classes, confusion at 0.5, reliability before and after, score histogram."""
    fpr, tpr, _ = roc_curve(is_clean, p_clean)
    write_csv(folder / "roc.csv", ["false_clean_rate", "recall_clean"], _thin(fpr, tpr))
    rows = []
    for name, truth, score in (("clean", is_clean, p_clean), ("dirty", ~is_clean, 1 - p_clean)):
        precision, recall, _ = precision_recall_curve(truth, score)
        rows += [(r, p, name) for r, p in _thin(recall[::-1], precision[::-1])]
    write_csv(folder / "precision_recall.csv", ["recall", "precision", "class"], rows)
    names = np.array(["dirty", "clean"])
    said = names[(p_clean >= 0.5).astype(int)]
    write_csv(folder / "confusion.csv", ["actual", "predicted"], zip(names[is_clean.astype(int)], said, strict=True))
    stages = (("before", uncalibrated), ("after", p_clean))
    rows = [(p, share, name) for name, p_all in stages for p, share, _ in reliability(is_clean, p_all, bins)]
    write_csv(folder / "calibration.csv", ["p_clean", "share_clean", "calibration"], rows)
    edges = np.histogram_bin_edges(logit, 40)
    rows = []
    for name, members in (("clean", is_clean), ("dirty", ~is_clean)):
        counts, _ = np.histogram(logit[members], edges)
        rows += [
            (round(float(middle), 4), int(n), name)
            for middle, n in zip((edges[1:] + edges[:-1]) / 2, counts, strict=True)
        ]
    write_csv(folder / "histogram.csv", ["logit", "photos", "class"], rows)


def _thin(x: Floats, y: Floats) -> list[tuple[float, float]]:
    """At most POINTS of a curve, both ends among them."""
    picked = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int))
    return [(round(float(x[i]), 5), round(float(y[i]), 5)) for i in picked]
