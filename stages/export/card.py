"""reports/model_card.md: what was measured, in words and tables; by hand are three fields in params.yaml alone.

best.onnx carries the card without the speed, which changes from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from stages.common.base.errors import StageError
from stages.common.base.files import read_json
from stages.common.base.paths import REPORTS
from stages.common.rates import Outcome
from stages.export.params import ExportParams

CARD = REPORTS / "model_card.md"
READS = ("split_check", "backbone", "eval", "threshold", "convert")  # reports


def read_reports() -> dict[str, Any]:
    """The reports of the stages before. Raises StageError."""
    return {name: read_json(REPORTS / f"{name}.json") for name in READS}


def render(
    reports: Mapping[str, Any],
    hand: ExportParams,
    sources: Mapping[str, Outcome],
    facts: Mapping[str, Any],
    *,
    speed: bool,
) -> str:
    """The card in Markdown, with front matter for model hubs. `facts`: of the network's metadata and file.

    Raises StageError naming the report that lacks something.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "assets"), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    environment.filters |= {"percent": _percent, "interval": _interval}
    try:
        return environment.get_template("card.md").render(
            **reports, hand=hand, sources=sources, facts=facts, speed=speed
        )
    except jinja2.UndefinedError as error:
        raise StageError(f"{CARD}: a report in {REPORTS} lacks something: {error}; run dvc repro") from error


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f} %"


def _interval(one: Mapping[str, float]) -> str:
    return f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"
