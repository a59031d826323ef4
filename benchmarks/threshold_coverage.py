"""Does the threshold keep its promise, and what does the promise cost? Simulated, where the truth is known.

    python -m benchmarks.threshold_coverage [--draws 2000] [--seconds 900] [--further] [--out FILE]

Needs `pip install -r benchmarks/requirements.txt -c constraints.txt`.

Per scenario: the share of draws in which a certified T breaks the promise (to be held against 1 - confidence = 0.05
and its simulation error), the share of draws not certified, and the mean recall of clean as a fraction of an
oracle's that knows the distribution. Draws without a certified T count as recall 0, for every method. Then: the best of
several experiments, T_clean and T_low together, and how often "N more dirty photos" is right.
"""

import argparse
import importlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import special

from benchmarks.threshold_methods import Method, empirical, fixed_sequence, holm, mapie, ours, ours_calibrated, promised
from benchmarks.threshold_scenarios import BOTH, CONFIDENCE, FIGURES, FLEET, FORETOLD, Scenario, catalogue, describe
from stages.common.base.files import write_bytes
from stages.threshold import Decision, choose_low_threshold


@dataclass(frozen=True)
class Outcome:
    violations: float
    refused: float
    recall: float  # mean, as a fraction of the oracle's


def simulate(scenario: Scenario, draws: int, method: Method | None = None, seed: int = 0) -> Outcome:
    method = method or (ours_calibrated if scenario.calibrated else ours)
    rng, best = np.random.default_rng(seed), scenario.oracle()
    violations, refused, recalls = 0, 0, 0.0
    for _ in range(draws):
        threshold = method(scenario, *scenario.draw(rng))
        refused += threshold is None
        if threshold is not None:
            violations += not scenario.keeps(threshold)
            recalls += scenario.scores.rates(threshold)[0]
    return Outcome(violations / draws, refused / draws, recalls / draws / best if best else float("nan"))


def best_of(scenario: Scenario, experiments: int, tries: int, draws: int, alike: float = 0.5) -> Outcome:
    """Equal models on the same photos, their scores `alike` correlated; the one with the highest certified recall."""
    rng = np.random.default_rng(0)
    violations, refused, recalls = 0, 0, 0.0
    for _ in range(draws):
        clean, shared = rng.random(scenario.n) >= scenario.dirty, rng.normal(size=scenario.n)
        decisions = []
        for _ in range(experiments):
            own = np.sqrt(alike) * shared + np.sqrt(1 - alike) * rng.normal(size=scenario.n)
            p = scenario.show(clean, special.ndtr(own))
            decisions.append(promised(scenario, clean, p, confidence=1 - (1 - CONFIDENCE) / tries))
        best = max((one for one in decisions if one.certified), key=lambda one: one.recall or 0, default=None)
        refused += best is None
        if best is not None:
            violations += not scenario.keeps(best.threshold)
            recalls += scenario.scores.rates(best.threshold)[0]
    return Outcome(violations / draws, refused / draws, recalls / draws / scenario.oracle())


def both(scenario: Scenario, target_dirty: float, split: bool, draws: int) -> Outcome:
    """T_clean and T_low of the same photos: how often either breaks its promise; the recall is that of clean."""
    rng = np.random.default_rng(0)
    confidence = 1 - (1 - CONFIDENCE) / (2 if split else 1)
    violations, refused, recalls = 0, 0, 0.0
    for _ in range(draws):
        clean, p, _ = scenario.draw(rng)
        high = promised(scenario, clean, p, confidence=confidence)
        low = choose_low_threshold(
            clean, p, target_precision_dirty=target_dirty, confidence=confidence, t_clean=1.0, foretell=False
        )
        refused += not high.certified
        wrong = low.certified and scenario.precision_dirty(low.threshold) < target_dirty - 1e-9
        violations += wrong or (high.certified and not scenario.keeps(high.threshold))
        recalls += scenario.scores.rates(high.threshold)[0] if high.certified else 0
    return Outcome(violations / draws, refused / draws, recalls / draws / scenario.oracle())


@dataclass(frozen=True)
class Foretold:
    """Of the draws that were not certified: how often what was asked for then certified."""

    base: float  # share of draws that certify as they are
    cases: int
    hopeless: int  # in which no number was given
    right: float  # share of fresh val sets of the size that was asked for which certify
    more: float  # median of what was asked for, as a multiple of the dirty photos there were
    recall_error: float  # mean of the recall foretold - the recall that came


def foretell(scenario: Scenario, cases: int, fresh: int = 5, limit: int = 400) -> Foretold:
    """Draw until `cases` (at most `limit` draws) are not certified; `fresh` new draws judge what each asks for."""
    rng = np.random.default_rng(0)
    decisions, draws = list[Decision](), 0
    while len(decisions) < cases and draws < limit:
        draws += 1
        clean, p, _ = scenario.draw(rng)
        if clean.all() or (decision := promised(scenario, clean, p, foretell=True)).certified or decision.trivial:
            continue
        decisions.append(decision)
    told = [one for one in decisions if one.more_dirty is not None]
    hits, errors = [], []
    for one in told:
        dirty = one.n_dirty + (one.more_dirty or 0)
        n = dirty + round(one.n_clean * dirty / one.n_dirty)
        larger = replace(scenario, n=n, dirty=dirty / n, fixed_counts=True)
        for _ in range(fresh):
            later = promised(larger, *larger.draw(rng)[:2])
            hits.append(later.certified)
            errors += [(one.recall_with_more or 0) - (later.recall or 0)] if later.certified else []
    more = float(np.median([(one.more_dirty or 0) / one.n_dirty for one in told] or [np.nan]))
    hopeless, right, error = len(decisions) - len(told), np.mean(hits or [np.nan]), np.mean(errors or [np.nan])
    return Foretold(1 - len(decisions) / draws, len(decisions), hopeless, float(right), more, float(error))


def report(draws: int, seconds: float) -> Iterator[str]:
    """The tables, line by line; scenarios that the time does not allow are named as such."""
    start, error = time.monotonic(), np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / draws)
    yield f"{draws} draws each; violations may reach {1 - CONFIDENCE:.3f}, simulation error {error:.4f} (one sigma)"
    yield f"{'scenario':<76}{'violated':>9}{'refused':>9}{'recall/oracle':>15}"
    for scenario in catalogue():
        if time.monotonic() - start > seconds:
            yield f"{describe(scenario):<76}  not run: --seconds {seconds:g} are over"
            continue
        yield line(describe(scenario), simulate(scenario, draws))
    methods = {
        "dirtycar": ours,
        "fixed sequence, one start": fixed_sequence,
        "Bonferroni-Holm": holm,
        "validation precision >= target": empirical,
        **{f"MAPIE {name}": mapie(name) for name in ("bonferroni_holm", "fixed_sequence", "split_fixed_sequence")},
    }
    for scenario in FIGURES:
        yield f"\n{describe(scenario)}: side by side"
        for name, method in methods.items():
            few = min(draws, 100) if name == "MAPIE split_fixed_sequence" else draws  # half a second each
            yield line(f"  {name} ({few} draws)", simulate(scenario, few, method))


def further(draws: int) -> Iterator[str]:
    """The fleet's composition, the best of several experiments, T_clean and T_low together, and what is foretold."""
    yield f"15 % of 69,000 clean and 2,300 dirty photos, AUC 0.98 ({draws} draws): violated, refused, recall/oracle"
    yield from (line(f"  {describe(scenario)}", simulate(scenario, draws)) for scenario in FLEET)
    few = min(draws, 200)
    yield f"\nthe best of 8 equal experiments by certified recall ({few} draws)"
    for scenario in (*FIGURES[:2], *FLEET[:1]):
        for tries in (1, 8):
            yield line(f"  {describe(scenario)}, tries {tries}", best_of(scenario, 8, tries, few))
    yield f"\nT_clean and T_low together, target of dirty 0.9 ({draws} draws)"
    for scenario in BOTH:
        for split in (False, True):
            name = "level split" if split else "each at the whole level"
            yield line(f"  {describe(scenario)}, {name}", both(scenario, 0.9, split, draws))
    cases = min(draws, 12)
    yield f"\nphotos foretold for a chance of 80 %: {cases} refused draws each, 5 new val sets for each number"
    yield f"{'':<60}{'certified':>10}{'no number':>10}{'right':>7}{'more / had':>11}{'recall off by':>14}"
    totals = []
    for scenario in FORETOLD:
        one = foretell(scenario, cases)
        totals.append(one.right)
        yield (
            f"{describe(scenario):<60}{one.base:>10.2f}{one.hopeless:>6} /{one.cases:>2}{one.right:>7.2f}"
            f"{one.more:>11.2f}{one.recall_error:>14.3f}"
        )
    yield f"{'mean':<60}{np.nanmean(totals):>27.2f}"


def line(name: str, outcome: Outcome) -> str:
    return f"{name:<76}{outcome.violations:>9.4f}{outcome.refused:>9.3f}{outcome.recall:>15.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=900, help="no further scenario is started after so many")
    parser.add_argument("--further", action="store_true", help="only the tables after the comparison of methods")
    parser.add_argument("--out", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    tables = [further(arguments.draws)]
    if not arguments.further:
        importlib.import_module("mapie.risk_control")  # whether it is missing is to be known now, not in 15 minutes
        tables.insert(0, report(arguments.draws, arguments.seconds))
    lines = []
    for text in itertools.chain.from_iterable(tables):
        print(text, flush=True)
        lines.append(text)
    if arguments.out:
        write_bytes(arguments.out, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
