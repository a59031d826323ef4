"""`python -m stages.threshold`: the predictions on val -> threshold.json; on test, how it turned out. No torch."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from serving.inference.verdict.rule import Limits, Rule
from stages.common.base.errors import StageError, run_stage
from stages.common.base.files import csv_bytes, json_bytes, write_atomically
from stages.common.base.params import load
from stages.common.base.paths import REPORTS, THRESHOLD
from stages.common.base.photos import Predictions, read_predictions
from stages.common.rates import outcome, verdicts
from stages.threshold.cars import car_outcomes, car_thresholds, seen_in_views
from stages.threshold.choose import choose_low_threshold, choose_threshold, one_per_car
from stages.threshold.decision import Decision
from stages.threshold.params import Params, ThresholdParams
from stages.threshold.refusal import Refusal, choose_refusal
from stages.threshold.scenarios import Scenarios, scenarios

REPORT, PLOTS = REPORTS / "threshold.json", REPORTS / "threshold"
LIMITS, SHARES = (0.02, 0.05, 0.1), (0.1, 0.2)  # suggested where the promise is trivial

log = logging.getLogger(__name__)


def decide_refusal(val: Predictions, params: Params) -> Refusal:
    """The limits beyond which a photo is unusable. Without a proof it warns, and goes on."""
    poor, own = params.split_check, params.threshold
    wanted = Limits(np.inf, poor.dark_below, poor.sharpness_below, poor.small_below)
    measures = val.measures[one_per_car(val.groups, len(val.groups))]
    found = choose_refusal(measures, wanted, max_refused=own.max_refused, confidence=own.confidence)
    if found.reason:
        log.warning("what is refused as unusable is NOT CERTIFIED: %s", found.reason)
    return found


def decide_clean(val: Predictions, params: ThresholdParams, *, foretell: bool = True) -> Decision:
    """The decision on T_clean. Photos of one group count once: photos of one car are no independent evidence."""
    return choose_threshold(
        val.is_clean, val.p_clean, target_precision=params.target_precision_clean, confidence=params.confidence_each,
        dirty_share=params.dirty_share, groups=val.groups, max_false_clean_rate=params.max_false_clean_rate,
        foretell=foretell,
    )  # fmt: skip


def decide(val: Predictions, params: ThresholdParams) -> dict[str, Decision]:
    """The decision on T_clean, `clean`, and where the dirty verdict has a target too the one on T_low, `dirty`.

    Raises StageError where one class is missing.
    """
    counted = val.is_clean[one_per_car(val.groups, len(val.groups))]
    if counted.all() or not counted.any():
        raise StageError(
            f"val has {len(counted)} cars or sessions with usable photos (one each is used) and none of them is "
            f"{'dirty' if counted.all() else 'clean'}; add such photos to val, or mend data.car_regex"
        )
    clean = decide_clean(val, params)
    if params.target_precision_dirty is None:
        return {"clean": clean}
    dirty = choose_low_threshold(
        val.is_clean, val.p_clean, target_precision_dirty=params.target_precision_dirty,
        confidence=params.confidence_each, t_clean=clean.threshold, dirty_share=params.dirty_share, groups=val.groups,
    )  # fmt: skip
    return {"clean": clean, "dirty": dirty}


def refuse_trivial(decisions: dict[str, Decision], val: Predictions, params: ThresholdParams) -> None:
    """Raises StageError with what to set, and what T_clean it gives on val, unless a trivial promise is accepted."""
    trivial = [name for name, one in decisions.items() if one.trivial]
    if not trivial or params.on_trivial == "accept":
        return
    clean = decisions["clean"]
    share = params.dirty_share or clean.n_dirty / (clean.n_clean + clean.n_dirty)
    lines = [
        f"the precision of {' and '.join(trivial)} is TRIVIAL where {share:.1%} of the cars are dirty: calling every "
        "car the same meets it, so it says nothing of the model. Set one of these; on val it gives:"
    ]
    if "clean" in trivial:
        options = {f"max_false_clean_rate: {x}": replace(params, max_false_clean_rate=x) for x in LIMITS}
        options |= {f"dirty_share: {x}": replace(params, dirty_share=x) for x in SHARES}
        for option, changed in options.items():
            one = decide_clean(val, changed, foretell=False)
            gives = "certified" if one.certified else "trivial as well" if one.trivial else "not certified"
            lines.append(f"  threshold.{option:<27}T_clean {one.threshold:.4f}, recall {one.recall:.3f}, {gives}")
    if "dirty" in trivial:
        lines.append("  threshold.target_precision_dirty: a higher one, or null")
    lines.append("  threshold.on_trivial: accept   goes on, not certified")
    raise StageError("\n".join(lines))


def speak_up(decisions: dict[str, Decision], params: ThresholdParams) -> None:
    """Say loudly what is not promised. Raises StageError where that must stop the pipeline."""
    for name, decision in decisions.items():
        if not decision.certified:
            message = f"the precision of {name} >= {decision.target_precision} is NOT CERTIFIED: {decision.reason}"
            if params.on_unreachable == "fail" and not decision.trivial:
                raise StageError(f"{message}\nSet threshold.on_unreachable: best_effort to go on without the promise.")
            log.warning(message)


def plots(tables: Scenarios) -> dict[Path, bytes]:
    """The files behind the plots: along all thresholds, at other targets, at other shares of dirty cars."""
    return {
        PLOTS / f"{name}.csv": csv_bytes(list(rows[0]), (list(row.values()) for row in rows))
        for name, rows in asdict(tables).items()
    }


def describe(rule: Rule, refusal: Refusal, decisions: dict[str, Decision], params: ThresholdParams) -> dict[str, Any]:
    """The content of threshold.json: the rule, whether it is certified, and all that is known of the promise.

    `confidence` is that of all promises of all `tries` together; each promise has its own, higher one.
    """
    return {
        "T_clean": rule.t_clean,
        "T_low": rule.t_low,
        "certified": all(decision.certified for decision in decisions.values()),
        "trivial": any(decision.trivial for decision in decisions.values()),
        "confidence": params.confidence,
        "tries": params.tries,
        "refusal": asdict(refusal),
        "promise": {name: asdict(decisions[name]) if name in decisions else None for name in ("clean", "dirty")},
    }


def main() -> None:
    every = load(Params)
    params = every.threshold
    val, test = (read_predictions(split) for split in ("val", "test"))
    refusal = decide_refusal(val, every)
    cars, test_cars = (
        seen_in_views(one.is_clean, one.p_clean, one.groups, one.usable(refusal.limits)) for one in (val, test)
    )
    val = val.within(refusal.limits)
    decisions = decide(val, params)
    refuse_trivial(decisions, val, params)
    speak_up(decisions, params)
    clean, low = decisions["clean"], decisions.get("dirty")
    rule = Rule(clean.threshold, low.threshold if low else None, refusal.limits)
    found = describe(rule, refusal, decisions, params)
    thresholds = cars and car_thresholds(cars, params)
    found["cars"] = thresholds and {views: asdict(one) for views, one in thresholds.items()}
    turned_out = outcome(test.is_clean, verdicts(rule, test.p_clean, test.measures))
    on_test = {"test": turned_out, "test_cars": test_cars and thresholds and car_outcomes(test_cars, thresholds)}
    tables = scenarios(val.is_clean, val.p_clean, clean, low=low, groups=val.groups)
    report = found | on_test | {"at_dirty_shares": tables.shares, "at_targets": tables.targets}
    write_atomically({**plots(tables), THRESHOLD: json_bytes(found, digits=None), REPORT: json_bytes(report)})
    certified = "certified" if found["certified"] else "NOT certified"
    rates = ", ".join(f"{name} {round(value, 4)}" for name, value in turned_out.items() if value is not None)
    print(f"T_clean {rule.t_clean:.4f}, {certified} as one of {params.tries} (threshold.tries); on test: {rates}")


if __name__ == "__main__":
    run_stage("threshold", main)
