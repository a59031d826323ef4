"""The verdict on a car from the p_clean of its photos: what the dirtiest view says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from serving.inference.verdict.rule import Rule, Threshold

ANY = "any"


class CarVerdict(NamedTuple):
    """`certified`: the promise about cars holds for this number of views, and at this threshold."""

    label: str
    p_clean: float  # the least of its views
    threshold: float
    certified: bool


def judge(p_clean: Sequence[float], threshold: Threshold, rule: Rule) -> CarVerdict:
    """The verdict on a car from the photos that can be used, one or more.

    The threshold is the certified one for so many views, else the certified one for any number, else the rule's for
    photos, which then promises nothing about cars. A rule that the environment changed decides alone.
    """
    lowest = min(p_clean)
    cars = threshold.content.get("cars") or {}
    if threshold.certified and rule == threshold.rule:
        for views in (str(len(p_clean)), ANY):
            if views in cars and cars[views]["certified"]:
                limit = float(cars[views]["threshold"])
                low = None if rule.t_low is None else min(limit, rule.t_low)
                return CarVerdict(Rule(limit, low).decide(lowest), lowest, limit, True)
    return CarVerdict(rule.decide(lowest), lowest, rule.t_clean, False)
