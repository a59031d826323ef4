"""Does the threshold keep its promise, and what does the promise cost? Simulated, where the truth is known.

    python -m benchmarks.threshold_coverage [--draws 2000] [--seconds 900] [--further]

Needs `pip install -r benchmarks/requirements.txt -c constraints.txt`.

Per scenario: the share of draws in which a certified T breaks the promise (to be held against 1 - confidence = 0.05
and its simulation error), the share of draws not certified, and the mean recall of clean as a fraction of an
oracle's that knows the distribution. Draws without a certified T count as recall 0, for every method. Then: the best of
several experiments, T_clean and T_low together, and how often "N more dirty photos" is right.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.threshold_methods import empirical, fixed_sequence, holm, mapie
from tests.support.populations import (
    BOTH,
    CONFIDENCE,
    FIGURES,
    FLEET,
    FORETOLD,
    KNIFE_EDGE,
    POPULATIONS,
    Scenario,
    describe,
)
from tests.support.promises import Outcome, best_of, both, foretell, ours, simulate


def catalogue() -> Iterator[Scenario]:
    yield from FIGURES
    yield from (replace(figure, fixed_counts=True) for figure in FIGURES)
    sizes = [
        (100, 0.2, 0.9),
        (100, 0.5, 0.9),
        (500, 0.3, 0.95),
        (2000, 0.1, 0.95),
        (2000, 0.03, 0.99),
        (20000, 0.03, 0.99),
    ]
    for name in POPULATIONS:
        yield from (Scenario(name, n, dirty, target) for n, dirty, target in [*sizes, (20000, 0.5, 0.95)])
        elsewhere = [(100, 0.3, 0.9, 0.2), (500, 0.3, 0.95, 0.1), (2000, 0.1, 0.95, 0.3), (20000, 0.03, 0.98, 0.1)]
        yield from (Scenario(name, n, dirty, target, dirty_share=share) for n, dirty, target, share in elsewhere)
        yield Scenario(name, 2000, 0.3, 0.95, per_car=5)
        yield Scenario(name, 2000, 0.3, 0.95, per_car=5, dirty_share=0.1)
    yield from KNIFE_EDGE
    yield Scenario("normal", 2000, 0.3, 0.95, per_car=10, alike=0.95)
    yield Scenario("normal", 2000, 0.03, 0.95, max_false_clean_rate=0.2)
    yield Scenario("normal", 2000, 0.1, 0.95, dirty_share=0.1, max_false_clean_rate=0.2)
    yield Scenario("normal", 500, 0.3, 0.95, calibrated=True)
    yield Scenario("overconfident", 500, 0.3, 0.95, calibrated=True)


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
    arguments = parser.parse_args()
    tables = [further(arguments.draws)]
    if not arguments.further:
        mapie("bonferroni_holm")  # whether it is missing is to be known now, not in 15 minutes
        tables.insert(0, report(arguments.draws, arguments.seconds))
    for text in itertools.chain.from_iterable(tables):
        print(text, flush=True)


if __name__ == "__main__":
    main()
