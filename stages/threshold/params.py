"""What the threshold stage reads of params.yaml."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from stages.common.base.params import OpenShare, strict


@strict
class ThresholdParams:
    target_precision_clean: OpenShare
    target_precision_dirty: OpenShare | None
    confidence: OpenShare
    tries: Annotated[int, Field(ge=1, le=1000)]
    dirty_share: OpenShare | None
    max_false_clean_rate: OpenShare | None
    max_refused: OpenShare
    on_trivial: Literal["fail", "accept"]
    on_unreachable: Literal["best_effort", "fail"]

    @property
    def confidence_each(self) -> float:
        """Of each promise of each experiment, such that all hold with `confidence` together (Bonferroni)."""
        promises = 1 if self.target_precision_dirty is None else 2
        return 1 - (1 - self.confidence) / (self.tries * promises)


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class QualityLimits:
    """Of the section `split_check`, what is too small, dark or blurred; split_check checks the values."""

    small_below: float
    dark_below: float
    sharpness_below: float


@strict
class Params:
    threshold: ThresholdParams
    split_check: QualityLimits
