"""reports/drift.html: the curves, offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from stages.common.page import template
from tools.drift.shift import Floats, Scores

WIDTH, HEIGHT = 640, 220  # of a chart's plane, in units of its SVG
LINES = {
    "Verdicts": ("clean_rate", "dirty_share", "dirty_share_low", "dirty_share_high"),
    "Photos": ("brightness", "contrast", "sharpness"),
}
TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


def line(x: Floats, y: Sequence[float] | Floats) -> str:
    """Points of a polyline; both axes 0..1, what is beyond at the edge."""
    return " ".join(f"{WIDTH * a:.1f},{HEIGHT * (1 - b):.1f}" for a, b in zip(x, np.clip(y, 0, 1), strict=True))


def log_odds(p: Any) -> Floats:
    """Probabilities on an axis of log-odds, 0..1, cut at TICKS's ends."""
    low, high = special.logit([TICKS[0], TICKS[-1]])
    return np.asarray((np.clip(special.logit(p), low, high) - low) / (high - low))


def render(report: dict[str, Any], edges: Floats, clean: Scores, dirty: Scores, now: Scores) -> str:
    """The page as HTML."""
    spread = {name: np.cumsum(one.bins)[:-1] / one.photos for name, one in (("clean", clean), ("dirty", dirty))}
    if (share := report["now"].get("dirty_share")) is not None:
        spread["expected"] = share * spread["dirty"] + (1 - share) * spread["clean"]
    if now.photos:
        spread["now"] = np.cumsum(now.bins)[:-1] / now.photos
    blocks = report["over_time"]
    x = np.linspace(0, 1, len(blocks)) if len(blocks) > 1 else np.array([])
    charts = {
        title: {
            name: line(x[[name in one for one in blocks.values()]], [b[name] for b in blocks.values() if name in b])
            for name in names
        }
        for title, names in LINES.items()
        if len(x) and any(name in one for one in blocks.values() for name in names)
    }
    return template(Path(__file__).with_name("page.html")).render(
        report=report, charts=charts, width=WIDTH, height=HEIGHT, ends=[*blocks][:: max(1, len(blocks) - 1)],
        scores={name: line(log_odds(edges), y) for name, y in spread.items()},
        ticks=[(tick, WIDTH * float(log_odds(tick))) for tick in TICKS],
    )  # fmt: skip
