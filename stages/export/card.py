"""The model card: what was measured, in words and tables; by hand are three fields in params.yaml alone.

best.onnx carries it. The benchmark stage adds the speed, and writes reports/model_card.md.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from stages.common.base.errors import StageError
from stages.common.base.files import read_json
from stages.common.base.paths import REPORTS
from stages.common.rates import Outcome
from stages.export.params import ExportParams

READS = ("split_check", "backbone", "eval", "threshold")  # reports


def read_reports() -> dict[str, Any]:
    """The reports of the stages before. Raises StageError."""
    return {name: read_json(REPORTS / f"{name}.json") for name in READS}


def render(
    reports: Mapping[str, Any],
    hand: ExportParams,
    sources: Mapping[str, Outcome],
    facts: Mapping[str, Any],
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
        return environment.get_template("card.md").render(**reports, hand=hand, sources=sources, facts=facts)
    except jinja2.UndefinedError as error:
        raise StageError(f"the model card: a report in {REPORTS} lacks something: {error}; run dvc repro") from error


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f} %"


def _interval(one: Mapping[str, float]) -> str:
    return f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"
