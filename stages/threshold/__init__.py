"""The threshold whose promise holds: pure functions over arrays."""

from stages.threshold.choose import choose_low_threshold, choose_threshold
from stages.threshold.decision import Decision
from stages.threshold.scenarios import Scenarios, scenarios

__all__ = ["Decision", "Scenarios", "choose_low_threshold", "choose_threshold", "scenarios"]
