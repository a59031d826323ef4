"""p_clean and measures -> verdict: the one rule, and the reader of the threshold.json that holds it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from serving.inference.verdict.errors import UserError, read_at_most

CLEAN, DIRTY, UNCERTAIN, UNUSABLE = "clean", "dirty", "uncertain", "unusable"
TOO_SMALL, TOO_DARK, TOO_BLURRED, NO_CAR = "too_small", "too_dark", "too_blurred", "no_car"  # why a photo is unusable
REASONS = (TOO_SMALL, TOO_DARK, TOO_BLURRED, NO_CAR)
CLASSES = (DIRTY, CLEAN)  # in the order of the network's outputs
MAX_BYTES = 2**20  # of a threshold.json; it has some 1,000


class ThresholdError(UserError):
    """threshold.json is missing, damaged or holds values that make no rule; the message names file and key."""


class Measures(NamedTuple):
    """What tells whether a photo can be judged; the defaults keep every limit."""

    distance: float = 0.0  # from the train photos of cars
    brightness: float = math.inf  # as serving.inference.model.quality has it
    sharpness: float = math.inf  # likewise
    side: float = math.inf  # the shorter one of the photo as it was sent, pixels


BEYOND_REPROACH = Measures()


@dataclass(frozen=True)
class Limits:
    """Beyond which a photo is unusable; the defaults refuse none."""

    max_distance: float = math.inf
    dark_below: float = 0.0
    sharpness_below: float = 0.0
    small_below: float = 0.0

    def reason(self, measures: Measures) -> str | None:
        """Why a photo is unusable, if it is: the first of REASONS."""
        if measures.side < self.small_below:
            return TOO_SMALL
        if measures.brightness < self.dark_below:
            return TOO_DARK
        if measures.sharpness < self.sharpness_below:
            return TOO_BLURRED
        return NO_CAR if measures.distance > self.max_distance else None


@dataclass(frozen=True)
class Rule:
    """p >= t_clean is clean, p < t_low is dirty, in between is uncertain; without t_low all below t_clean is dirty.

    A photo beyond the limits is unusable, whatever its p.
    """

    t_clean: float
    t_low: float | None = None
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        """Raises ThresholdError unless 0 <= t_low <= t_clean <= 1."""
        low = self.t_clean if self.t_low is None else self.t_low
        if not 0 <= low <= self.t_clean <= 1:
            raise ThresholdError(f"need 0 <= T_low <= T_clean <= 1, got T_low={low}, T_clean={self.t_clean}")

    def decide(self, p_clean: float, measures: Measures = BEYOND_REPROACH) -> str:
        """The verdict for one p_clean in [0, 1]; a NaN is never clean."""
        if self.limits.reason(measures):
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
        refusal = content.get("refusal") or {"max_distance": None}
        limits = {name: refusal.get(name) for name in Limits.__dataclass_fields__}
        limits["max_distance"] = refusal["max_distance"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ThresholdError(f"{path} is not a threshold.json of this project: {error!r}") from error
    numbers = {"T_clean": t_clean, "T_low": t_low} | {f"refusal.{name}": value for name, value in limits.items()}
    for name, value in numbers.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
        if not number and (value is not None or name == "T_clean"):
            wanted = "a number" if name == "T_clean" else "a number or null"
            raise ThresholdError(f"{path}: {name} must be {wanted}, not {value!r}")
    if not isinstance(certified, bool):
        raise ThresholdError(f"{path}: certified must be true or false")
    try:
        rule = Rule(t_clean, t_low, Limits(**{name: value for name, value in limits.items() if value is not None}))
    except ThresholdError as error:
        raise ThresholdError(f"{path}: {error}") from None
    return Threshold(rule, certified, hashlib.sha256(raw).hexdigest(), content)
