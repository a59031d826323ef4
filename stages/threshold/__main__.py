"""`python -m stages.threshold`: the predictions on val -> threshold.json; on test, how it turned out. No torch."""

from __future__ import annotations

import csv
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.decision import Rule
from stages.common.data import read_groups
from stages.common.errors import StageError, run_stage
from stages.common.outcome import outcome, verdicts
from stages.common.params import OpenShare, load, strict
from stages.common.reports import csv_bytes, json_bytes, write_all
from stages.threshold import Decision, Scenarios, choose_low_threshold, choose_threshold, scenarios
from stages.threshold.choose import one_per_car

PREDICTIONS, THRESHOLD = Path("artifacts/predictions"), Path("artifacts/threshold.json")
REPORT, PLOTS = Path("reports/threshold.json"), Path("reports/threshold")

log = logging.getLogger(__name__)


@strict
class ThresholdParams:
    """The section `threshold`."""

    target_precision_clean: OpenShare
    target_precision_dirty: OpenShare | None
    confidence: OpenShare
    dirty_share: OpenShare | None
    max_false_clean_rate: OpenShare | None
    on_unreachable: Literal["best_effort", "fail"]


@strict
class Params:
    """What this stage reads of params.yaml."""

    threshold: ThresholdParams


class Predictions(NamedTuple):
    """What was predicted of a split, `[N]` each."""

    names: list[str]
    is_clean: NDArray[np.bool_]
    p_clean: NDArray[np.float64]


def read_predictions(path: Path) -> Predictions:
    """Read a predictions CSV. Raises StageError naming file and row."""
    names, is_clean, p_clean = [], [], []
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                names.append(row["path"])
                is_clean.append({"clean": True, "dirty": False}[row["label"]])
                p_clean.append(float(row["p_clean"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise StageError(f"{path}, row {len(p_clean) + 1}: {error!r}; `dvc repro eval` makes it") from error
    if not p_clean:
        raise StageError(f"{path} holds no predictions; `dvc repro eval` makes it")
    return Predictions(names, np.array(is_clean), np.array(p_clean))


def decide(val: Predictions, groups: NDArray[np.str_], params: ThresholdParams) -> list[Decision]:
    """The decision on T_clean and, where the dirty verdict has a target too, the one on T_low.

    Photos of one group count once: were they taken for so many cars, the promise would be too bold.
    """
    share, confidence = params.dirty_share, params.confidence
    clean = choose_threshold(
        val.is_clean, val.p_clean, target_precision=params.target_precision_clean, confidence=confidence,
        dirty_share=share, groups=groups, max_false_clean_rate=params.max_false_clean_rate,
    )  # fmt: skip
    if params.target_precision_dirty is None:
        return [clean]
    dirty = choose_low_threshold(
        val.is_clean, val.p_clean, target_precision_dirty=params.target_precision_dirty, confidence=confidence,
        t_clean=clean.threshold, dirty_share=share, groups=groups,
    )  # fmt: skip
    return [clean, dirty]


def speak_up(decisions: list[Decision], params: ThresholdParams) -> None:
    """Say loudly what is not promised. Raises StageError where that must stop the pipeline."""
    for name, decision in zip(("clean", "dirty"), decisions, strict=False):
        if not decision.certified:
            message = f"the precision of {name} >= {decision.target_precision} is NOT CERTIFIED: {decision.reason}"
            if params.on_unreachable == "fail":
                raise StageError(f"{message}\nSet threshold.on_unreachable: best_effort to go on without the promise.")
            log.warning(message)
    if decisions[0].trivial:
        log.warning(
            "the target is TRIVIAL: passing every car as clean meets precision %s at this share of dirty cars; set "
            "threshold.max_false_clean_rate, or threshold.dirty_share to a share where it matters",
            decisions[0].target_precision,
        )


def plots(tables: Scenarios) -> dict[Path, bytes]:
    """The files behind the plots: along all thresholds, at other targets, at other shares of dirty cars."""
    return {
        PLOTS / f"{name}.csv": csv_bytes(list(rows[0]), (list(row.values()) for row in rows))
        for name, rows in asdict(tables).items()
    }


def describe(rule: Rule, decisions: list[Decision]) -> dict[str, Any]:
    """The content of threshold.json: the rule, whether it is certified, and all that is known of the promise."""
    return {
        "T_clean": rule.t_clean,
        "T_low": rule.t_low,
        "certified": all(decision.certified for decision in decisions),
        "trivial": decisions[0].trivial,
        "promise": {"clean": asdict(decisions[0]), "dirty": asdict(decisions[1]) if len(decisions) > 1 else None},
    }


def main() -> None:
    """Choose on val, report on test."""
    params = load(Params).threshold
    val, test = (read_predictions(PREDICTIONS / f"{split}.csv") for split in ("val", "test"))
    groups = np.array(read_groups(val.names))
    counted = val.is_clean[one_per_car(groups, len(groups))]
    if counted.all() or not counted.any():
        raise StageError(
            f"one photo of each of the {len(counted)} cars or sessions in val is counted, and none of them is "
            f"{'dirty' if counted.all() else 'clean'}; add such photos to val, or mend split_check.group_regex"
        )
    decisions = decide(val, groups, params)
    speak_up(decisions, params)
    clean, low = decisions[0], decisions[1] if len(decisions) > 1 else None
    rule = Rule(clean.threshold, low.threshold if low else None)
    found, turned_out = describe(rule, decisions), outcome(test.is_clean, verdicts(rule, test.p_clean))
    tables = scenarios(val.is_clean, val.p_clean, clean, low=low, groups=groups)
    report = found | {"test": turned_out, "at_dirty_shares": tables.shares, "at_targets": tables.targets}
    write_all({**plots(tables), THRESHOLD: json_bytes(found, digits=None), REPORT: json_bytes(report)})
    print(
        f"T_clean {rule.t_clean:.4f}, {'certified' if found['certified'] else 'NOT certified'}; on test: {turned_out}"
    )


if __name__ == "__main__":
    run_stage("threshold", main)
