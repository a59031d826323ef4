"""`python -m tools.audit_promise judgements.csv`: does the precision of clean keep its promise in production?

Three answers. holds: the lower end of the confidence sequence is at least the target. broken: the alarm has rung, which
happens with a probability of at most 1 - confidence, ever, while the promise holds. open: neither yet. All of it may be
looked at after every judgement. Exit code 0: holds or open, 3: broken, 1: there is no answer, the message says why.

The CSV has the columns photo and verdict (clean, dirty, unsure), and may have judge, model, judged_at and share: the
fraction of photos called clean that is judged. Where it changed, a photo counts in the precision for all it stands for;
the confidence holds for shares that are chosen without regard to the judgements.
Photos that are unsure, or that judges see differently, count in no answer; what they might change is said beside it.
"""

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from serving.inference.verdict.rule import CLEAN
from stages.common.base.errors import StageError, run_stage
from stages.common.base.files import read_json, write_json
from stages.common.base.paths import REPORTS
from tools.audit_promise.betting import Alarm, judgements_until, log_wealth, rate_low
from tools.audit_promise.judgements import Outcomes, read

REPORT = REPORTS / "threshold.json"  # in git: a service needs no pipeline run beside it
HOLDS, OPEN, BROKEN = "holds", "open", "broken"


@dataclass(frozen=True)
class Audit:
    """What the judgements say; precision is that of photos called clean."""

    answer: str
    target: float
    confidence: float
    model: str
    judged: int
    dirty: int
    unsure: int
    precision: float | None
    precision_low: float  # ends of the confidence sequence: the precision is within, at all times together
    precision_high: float
    precision_if_unsure_are_dirty: float | None
    alarm_wealth: float  # the highest so far; 1 / (1 - confidence) is the alarm
    alarm_at: int | None  # judgement of the alarm
    alarm_time: str | None
    likely_next: str | None  # the answer that comes next should it go on as so far
    judgements_until_next: int | None


def audit(outcomes: Outcomes, target: float, confidence: float) -> Audit:
    """The answer, from scratch: the same judgements give the same one however often it was asked."""
    level, dirty = 1 - confidence, outcomes.dirty
    least, unsure = outcomes.share.min(initial=1), outcomes.unsure
    weights, kind = np.unique(least / outcomes.share, return_inverse=True)
    bad = np.bincount(kind, dirty, len(weights))
    good = np.bincount(kind, ~dirty, len(weights))
    low, high = rate_low(good, bad, weights, level / 2), 1 - rate_low(bad, good, weights, level / 2)
    alarm = Alarm(target)
    wealth = np.array([float(alarm.update(bool(one))) for one in dirty])
    rung = np.flatnonzero(wealth >= 1 / level)
    total = float(weights @ (good + bad))
    precision = float(weights @ good) / total if len(dirty) else None
    answer = BROKEN if len(rung) else HOLDS if low >= target else OPEN
    likely, more = None, None
    if answer == OPEN and len(dirty):
        # Drawn towards the target, since few judgements say little.
        rate = (float(weights @ good) + target) / (total + 1)
        if rate > target:
            bets = log_wealth(good, bad, weights, target)
            likely, more = HOLDS, judgements_until(bets, np.log(2 / level), target, rate)
        else:
            bets = np.log(alarm.bets * alarm.bets.size)
            likely, more = BROKEN, judgements_until(bets, np.log(1 / level), 1 - target, 1 - rate)
    worst = float(weights @ good / (total + (least / unsure).sum())) if len(dirty) + len(unsure) else None
    first = int(rung[0]) if len(rung) else None
    return Audit(
        answer, target, confidence, outcomes.model, judged=len(dirty), dirty=int(dirty.sum()), unsure=len(unsure),
        precision=precision, precision_low=low, precision_high=high, precision_if_unsure_are_dirty=worst,
        alarm_wealth=float(wealth.max(initial=1)), alarm_at=None if first is None else first + 1,
        alarm_time=None if first is None else outcomes.judged_at[first] or None,
        likely_next=likely if more else None, judgements_until_next=more,
    )  # fmt: skip


def describe(audit: Audit, outcomes: Outcomes) -> str:
    """The answer in words."""
    sure, target = f"{audit.confidence:.0%}", f"{audit.target:.0%}"
    said = {
        HOLDS: f"holds: the precision of clean is {target} or more, with {sure} confidence",
        OPEN: f"open: neither proven nor broken at a target of {target}",
        BROKEN: f"BROKEN: the precision of clean is, or was for a time, below {target}",
    }
    lines = [said[audit.answer]]
    if audit.precision is not None:
        span = f"{audit.precision_low:.1%} to {audit.precision_high:.1%}"
        lines.append(f"  precision of clean {audit.precision:.1%} ({span}, {sure} at all times together)")
    lines.append(f"  {audit.judged} photos judged, {audit.dirty} of them dirty, {audit.unsure} unsure")
    if audit.unsure:
        lines.append(f"  were all the unsure ones dirty: {audit.precision_if_unsure_are_dirty:.1%}")
    if audit.alarm_at:
        lines.append(f"  alarm at judgement {audit.alarm_at} {audit.alarm_time or ''}".rstrip())
        lines.append("  judge more of the photos since then, and train and certify with them (`make adopt`)")
    if audit.likely_next:
        lines.append(f"  should it go on like this: {audit.likely_next} after about {audit.judgements_until_next} more")
    elif audit.answer == OPEN:
        lines.append("  too close to the target, or too few judgements, to tell which answer comes next")
    if outcomes.twice:
        kappa = "" if outcomes.kappa is None else f", Cohen's kappa {outcomes.kappa:.2f}"
        lines.append(f"  two judges agree on {outcomes.agree} of {outcomes.twice} photos{kappa}")
    if outcomes.waiting:
        lines.append(f"  {outcomes.waiting} photos wait for another judge")
    if outcomes.other_models:
        lines.append(f"  of model {audit.model}; {outcomes.other_models} judgements of others are left out (--model)")
    return "\n".join(lines)


def promise() -> tuple[float, float]:
    """Target and confidence that the present threshold was certified for. Raises StageError."""
    content = read_json(REPORT)
    try:
        return float(content["promise"][CLEAN]["target_precision"]), float(content["confidence"])
    except (KeyError, TypeError, ValueError) as error:
        raise StageError(f"{REPORT} holds no promise: {error!r}; give --target") from error


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.audit_promise", description=__doc__)
    parser.add_argument("judgements", type=Path)
    parser.add_argument("--target", type=float, help=f"precision of clean; as in {REPORT} unless given")
    parser.add_argument("--confidence", type=float, help="as there, or 0.95 with --target")
    parser.add_argument("--judges", type=int, default=1, help="judges who must have seen a photo for it to count (1)")
    parser.add_argument("--model", help="model version to audit; that of the last judgement unless given")
    parser.add_argument("--json", type=Path, help="also write the answer here")
    args = parser.parse_args(arguments)
    target, confidence = promise() if args.target is None else (args.target, 0.95)
    confidence = confidence if args.confidence is None else args.confidence
    if not (0 < target < 1 and 0 < confidence < 1 and args.judges >= 1):
        parser.error("--target and --confidence lie between 0 and 1, --judges is 1 or more")
    outcomes = read(args.judgements, args.judges, args.model)
    found = audit(outcomes, target, confidence)
    print(describe(found, outcomes))
    if args.json:
        write_json(args.json, asdict(found))
    if found.answer == BROKEN:
        sys.exit(3)


if __name__ == "__main__":
    run_stage("audit_promise", main)
