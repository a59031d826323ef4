"""The verdict on each car, from the rows of its photos: a CSV beside the results."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from serving.batch.resume import csv_bytes
from serving.batch.scorer import Row
from serving.engine.cars import judge
from serving.engine.deployment import Deployment
from serving.verdict.rule import UNUSABLE
from serving.whole import whole

COLUMNS = ("car", "label", "p_clean", "threshold", "certified", "views", "not_usable")


def write(out: Path, rows: Iterable[Row], regex: str, deployment: Deployment, min_views: int) -> None:
    """One line a car, by name; `regex` captures it from a path, and a photo without one is a car of its own."""
    cars: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found = re.search(regex, row.path)
        cars[(found and found[1]) or row.path].append(row)
    lines: list[tuple[object, ...]] = [COLUMNS]
    for car, views in sorted(cars.items()):
        usable = [row.p_clean for row in views if row.p_clean is not None]
        missing = len(views) - len(usable)
        if len(usable) < min_views:
            lines.append((car, UNUSABLE, "", "", False, len(usable), missing))
            continue
        one = judge(usable, deployment.predictor.threshold, deployment.rule)
        numbers = f"{one.p_clean:.6f}", f"{one.threshold:.6f}"
        lines.append((car, one.label, *numbers, one.certified, len(usable), missing))
    with whole(out) as file:
        file.write(csv_bytes(lines))
