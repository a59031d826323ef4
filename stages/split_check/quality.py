"""Photos on which a person could hardly tell either: too dark, washed out, blurred."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stages.split_check.look import Look
from stages.split_check.params import SplitCheckParams
from stages.split_check.scan import Scanned


@dataclass(frozen=True)
class Poor:
    """A photo of poor quality: which kind, and the measure that says so (lower is worse)."""

    name: str
    kind: str  # dark, washed_out or blurred
    measure: float


def poor_photos(scanned: Iterable[Scanned], params: SplitCheckParams) -> dict[str, list[Poor]]:
    """Every photo below a limit, by kind, worst first."""

    def measures(look: Look) -> dict[str, tuple[float, float]]:
        return {
            "dark": (look.brightness, params.dark_below),
            "washed_out": (look.contrast, params.contrast_below),
            "blurred": (look.sharpness, params.sharpness_below),
        }

    found: dict[str, list[Poor]] = {"dark": [], "washed_out": [], "blurred": []}
    for one in scanned:
        for kind, (measure, limit) in measures(one.look).items() if one.look else ():
            if measure < limit:
                found[kind].append(Poor(one.name, kind, measure))
    return {kind: sorted(photos, key=lambda poor: (poor.measure, poor.name)) for kind, photos in found.items()}
