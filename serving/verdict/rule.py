"""p_clean and distance -> verdict: the one rule, and the reader of the threshold.json that holds it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.verdict.errors import UserError, read_at_most

CLEAN, DIRTY, UNCERTAIN, UNUSABLE = "clean", "dirty", "uncertain", "unusable"
NO_CAR = "no_car"  # why a photo is unusable
CLASSES = (DIRTY, CLEAN)  # in the order of the network's outputs
MAX_BYTES = 2**20  # of a threshold.json; it has some 1,000


class ThresholdError(UserError):
    """threshold.json is missing, damaged or holds values that make no rule; the message names file and key."""


@dataclass(frozen=True)
class Rule:
    """p >= t_clean is clean, p < t_low is dirty, in between is uncertain; without t_low all below t_clean is dirty.

    Farther from the train photos than `max_distance` is no car, and unusable.
    """

    t_clean: float
    t_low: float | None = None
    max_distance: float = math.inf

    def __post_init__(self) -> None:
        """Raises ThresholdError unless 0 <= t_low <= t_clean <= 1."""
        low = self.t_clean if self.t_low is None else self.t_low
        if not 0 <= low <= self.t_clean <= 1:
            raise ThresholdError(f"need 0 <= T_low <= T_clean <= 1, got T_low={low}, T_clean={self.t_clean}")

    def decide(self, p_clean: float, distance: float = 0.0) -> str:
        """The verdict for one p_clean in [0, 1]; a NaN is never clean."""
        if distance > self.max_distance:
            return UNUSABLE
        if p_clean >= self.t_clean:
            return CLEAN
        if self.t_low is not None and p_clean >= self.t_low:
            return UNCERTAIN
        return DIRTY


@dataclass(frozen=True)
class Threshold:
    """What threshold.json says: the rule, whether its promise is certified, the sha256 of the file and all it holds."""

    rule: Rule
    certified: bool
    sha256: str
    content: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


def read_threshold(path: Path) -> Threshold:
    """Read a threshold.json. Raises ThresholdError with the file and the key at fault."""
    return parse_threshold(read_at_most(path, MAX_BYTES, ThresholdError), str(path))


def parse_threshold(raw: bytes, path: str) -> Threshold:
    """The content of a threshold.json; `path` names its file in ThresholdError."""
    try:
        content = json.loads(raw)
        t_clean, t_low, certified = content["T_clean"], content["T_low"], content["certified"]
        max_distance = (content.get("refusal") or {"max_distance": None})["max_distance"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ThresholdError(f"{path} is not a threshold.json of this project: {error!r}") from error
    numbers = [t_clean, *(t for t in (t_low, max_distance) if t is not None)]
    if any(isinstance(t, bool) or not isinstance(t, int | float) for t in numbers):
        raise ThresholdError(f"{path}: T_clean must be a number, T_low and refusal.max_distance a number or null")
    if not isinstance(certified, bool):
        raise ThresholdError(f"{path}: certified must be true or false")
    try:
        rule = Rule(t_clean, t_low, math.inf if max_distance is None else max_distance)
    except ThresholdError as error:
        raise ThresholdError(f"{path}: {error}") from None
    return Threshold(rule, certified, hashlib.sha256(raw).hexdigest(), content)
