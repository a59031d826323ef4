"""Does the audit's alarm keep its 5 %, and how soon does it come? How good is drift's estimate without judgements?

    python -m benchmarks.audit [--runs 2000] [--looks 100000]

Beside it: a binomial test at a fixed number of judgements, which may look once, and the same test looked at after every
judgement, as people do. Medians are of judgements from the break on; a run without an alarm counts as infinite. Drift:
a reference of val and test as large as the sample's, or 30 % of 69,000 clean and 2,300 dirty cars; a tenth of the runs.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tests.support.populations import normal
from tools.audit_promise.betting import FRACTIONS, Alarm, gains
from tools.drift import shift

TARGET, LEVEL = 0.95, 0.05
GOOD = 0.967  # precision before a late break: what the sample model is certified with
BREAKS = (0.90, 0.85, 0.80)
BEFORE = (0, 100, 1000, 10_000)  # good judgements before a break
AFTER = 3000  # judgements after a break

Step = Callable[[int, NDArray[np.bool_]], NDArray[np.bool_]]  # number of the judgement, dirty [N] -> alarm [N]


def betting(runs: int) -> Step:
    alarm = Alarm(TARGET, (runs,))
    return lambda _, dirty: alarm.update(dirty) >= 1 / LEVEL


def naive(runs: int, looks: int) -> Step:
    """The exact binomial test, looked at after every judgement."""
    bad, least = np.zeros(runs, np.int64), stats.binom.isf(LEVEL, np.arange(1, looks + 1), 1 - TARGET) + 1

    def step(number: int, dirty: NDArray[np.bool_]) -> NDArray[np.bool_]:
        np.add(bad, dirty, out=bad)
        return bad >= least[number]

    return step


def first_alarms(step: Step, precision: float, runs: int, looks: int, *, good: int = 0) -> NDArray[np.float64]:
    """How many judgements each run takes to its first alarm, `[runs]`, infinite where there is none.

    The first `good` of them are at the precision GOOD.
    """
    rng, first = np.random.default_rng(2), np.full(runs, np.inf)
    for number in range(looks):
        alarm = step(number, rng.random(runs) >= (GOOD if number < good else precision))
        first[alarm & np.isinf(first)] = number + 1
    return first


def fixed_size(precision: float, power: float) -> int:
    """The judgements with which the exact binomial test, looked at once, finds this precision with this power."""
    n = np.arange(10, 20_000)
    found = stats.binom.sf(stats.binom.isf(LEVEL, n, 1 - TARGET), n, 1 - precision) >= power
    return int(n[np.flatnonzero(~found)[-1] + 1])  # from here on always: the power of an exact test is a saw


def coverage(runs: int, looks: int) -> float:
    """The share of runs whose 95 % confidence sequence excludes the true precision at some time."""
    rng, out = np.random.default_rng(3), np.zeros(runs, bool)
    low, high = np.ones((runs, len(FRACTIONS))), np.ones((runs, len(FRACTIONS)))
    clean, dirty = np.exp(np.stack(gains(TARGET)[::-1])), np.exp(np.stack(gains(1 - TARGET)[::-1]))
    for _ in range(looks):
        bad = (rng.random(runs) >= TARGET).astype(np.int64)
        low, high = np.minimum(low * clean[1 - bad], 1e100), np.minimum(high * dirty[bad], 1e100)
        out |= np.maximum(low.mean(1), high.mean(1)) >= 2 / LEVEL
    return float(out.mean())


def report(runs: int, looks: int) -> Iterator[str]:
    """The tables, line by line."""
    error = np.sqrt(LEVEL * (1 - LEVEL) / runs)
    yield f"target {TARGET}, level {LEVEL}, {runs} runs; simulation error of a false-alarm rate {error:.4f} (one sigma)"
    yield f"\nfalse alarms within {looks} looks, precision exactly at the target"
    for name, step in (("betting", betting(runs)), ("binomial test, always looking", naive(runs, looks))):
        yield f"{name:<40}{np.isfinite(first_alarms(step, TARGET, runs, looks)).mean():>10.4f}"
    yield f"{'true precision once outside the interval':<40}{coverage(runs, looks):>10.4f}"
    yield "\njudgements to an alarm, precision wrong from the first judgement on"
    heads = ("betting: median", "90 %", "once, power 50 %", "80 %", "90 %", "naive: median")
    yield f"{'precision':<12}" + "".join(f"{head:>18}" for head in heads)
    for broken in BREAKS:
        ours = first_alarms(betting(runs), broken, runs, AFTER)
        other = first_alarms(naive(runs, AFTER), broken, runs, AFTER)
        once = [fixed_size(broken, power) for power in (0.5, 0.8, 0.9)]
        figures = [np.median(ours), np.quantile(ours, 0.9), *once, np.median(other)]
        yield f"{broken:<12}" + "".join(f"{figure:>18.0f}" for figure in figures)
    yield f"\nmedian judgements from a late break to the alarm, by judgements before it at precision {GOOD}"
    yield f"{'precision':<12}" + "".join(f"{before:>10}" for before in BEFORE) + f"{'1000 / 0':>12}"
    for broken in BREAKS:
        medians = []
        for before in BEFORE:
            first = first_alarms(betting(runs), broken, runs, before + AFTER, good=before)
            medians.append(np.median(first[first > before]) - before)
        ratio = medians[BEFORE.index(1000)] / medians[0]
        yield f"{broken:<12}" + "".join(f"{median:>10.0f}" for median in medians) + f"{ratio:>12.2f}"


PEOPLE, T = normal(3), 0.754  # recall of clean 0.97, as the sample's
CHANGES = {  # what is added to the latent scores of clean and of dirty cars, which have a standard deviation of 1
    "the share alone": (0, 0),
    "dirty cars 1 sigma nearer": (0, 1),
    "dirty cars 1.75 sigma nearer": (0, 1.75),
    "clean cars 0.25 sigma nearer": (-0.25, 0),
}
NEARER = (0, 1)
SHARES, PHOTOS = (0.05, 0.1, 0.2), (1000, 3000, 10_000)
FEW, MANY = (0.03, 0.05), (1000, 2000, 3000, 5000, 7000, 10_000, 20_000)  # of FLEET
SAMPLE, FLEET = (920, 260), (20_700, 690)  # clean and dirty in val and test


class Drawn(NamedTuple):
    """A reference and present photos: dirty cars among the present ones, bins, and scores of the three kinds."""

    share: float
    dirty: NDArray[np.float64]  # p_clean of the reference's
    edges: NDArray[np.float64]
    kinds: tuple[shift.Scores, shift.Scores, shift.Scores]


def draw(
    change: tuple[float, float], share: float, photos: int, rng: np.random.Generator, size: tuple[int, int] = SAMPLE
) -> Drawn:
    n = rng.binomial(photos, share)
    known = [PEOPLE.show(kind.ppf(rng.random(n))) for kind, n in zip((PEOPLE.clean, PEOPLE.dirty), size, strict=True)]
    now = [PEOPLE.clean.ppf(rng.random(photos - n)) + change[0], PEOPLE.dirty.ppf(rng.random(n)) + change[1]]
    edges = shift.quantiles(*known)
    kinds = [shift.Scores.from_photos(p, edges, T) for p in (*known, PEOPLE.show(np.concatenate(now)))]
    return Drawn(n / photos, known[1], edges, (kinds[0], kinds[1], kinds[2]))


def omniscient(change: tuple[float, float], share: float, photos: int, size: tuple[int, int] = SAMPLE) -> float:
    """About the power at level 0.05 of a test that knows how scores are spread and which change to look for, not
    its size, nor the share, and compares with as large a reference (first order: efficient score, fine bins)."""
    cells = np.linspace(-7, 10, 801)
    low, high, low_now, high_now = (np.diff(stats.norm(at).cdf(cells)) for at in (3, 0, 3 + change[0], change[1]))
    now = (1 - share) * low_now + share * high_now
    variance = now / photos + (1 - share) ** 2 * low / size[0] + share**2 * high / size[1] + 1e-300
    apart, moved = high - low, now - (1 - share) * low - share * high
    moved = moved - apart * (moved * apart / variance).sum() / (apart**2 / variance).sum()
    z = np.sqrt((moved**2 / variance).sum())
    return float(stats.norm.sf(1.96 - z) + stats.norm.cdf(-1.96 - z))


def drift(runs: int) -> Iterator[str]:
    """The share of dirty cars: how far off it is, and when a mere change of it is doubted."""
    rng = np.random.default_rng(4)
    yield f"\nshare of dirty cars by scores alone, 1,000 photos (AUC 0.983; {SAMPLE} clean and dirty in val and test)"
    heads = ("off by: median", "95 %", "within 0.02", "in the interval")
    yield f"{'what has changed':<34}{'share':>6}" + "".join(f"{head:>16}" for head in heads)
    for (name, change), share in itertools.product(CHANGES.items(), SHARES):
        rows = []
        for _ in range(runs // 10):
            true, _, _, (clean, dirty, now) = draw(change, share, 1000, rng)
            off = abs(float(shift.closed_form(clean.clean_rate, dirty.clean_rate, now.clean_rate)) - true)
            low, high = shift.interval(clean, dirty, now, rng)
            rows.append((off, off <= 0.02, low <= true <= high))
        off, within, inside = np.array(rows, float).T
        figures = (np.median(off), np.quantile(off, 0.95), within.mean(), inside.mean())
        yield f"{name:<34}{share:>6}" + "".join(f"{figure:>16.3f}" for figure in figures)
    yield f"\nruns of {runs // 10} with p <= 0.05: a mere change of the share is doubted"
    heads = ("all three tests", "any change (KS)", "dirty moved", "clean moved", "omniscient")
    yield f"{'what has changed':<34}{'share':>6}{'photos':>8}" + "".join(f"{head:>16}" for head in heads)
    for (name, change), share, photos in itertools.product(CHANGES.items(), SHARES, PHOTOS):
        rows = []
        for _ in range(runs // 10):
            _, _, edges, kinds = draw(change, share, photos, rng)
            found = shift.explained(*kinds, edges, rng)
            rows.append((found.p_value <= 0.05, *(p <= 0.05 for p in found.each)))
        figures = (*np.mean(rows, 0), omniscient(change, share, photos))
        yield f"{name:<34}{share:>6}{photos:>8}" + "".join(f"{figure:>16.2f}" for figure in figures)


def few_dirty(runs: int) -> Iterator[str]:
    """How many photos show that dirty cars are 1 sigma nearer, where few are dirty; what tools.drift says of that."""
    rng = np.random.default_rng(5)
    for size in (SAMPLE, FLEET):
        yield f"\nruns of {runs // 10} that see dirty cars 1 sigma nearer; {size} clean and dirty in val and test"
        heads = ("p <= 0.05", "omniscient", "p <= 0.01: alarm", "photos_needed")
        yield f"{'share':>6}{'photos':>8}" + "".join(f"{head:>18}" for head in heads)
        for share, photos in itertools.product(FEW, MANY):
            doubted, needed = [], []
            for _ in range(runs // 10):
                _, dirty, edges, kinds = draw(NEARER, share, photos, rng, size)
                p = shift.explained(*kinds, edges, rng).p_value
                doubted.append((p <= 0.05, p <= 0.01))
                needed.append(shift.photos_needed(kinds[0], dirty, share, edges, 0.01) or np.inf)
            found, alarm = np.mean(doubted, 0)
            known = omniscient(NEARER, share, photos, size)
            yield f"{share:>6}{photos:>8}{found:>18.2f}{known:>18.2f}{alarm:>18.2f}{np.median(needed):>18.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--looks", type=int, default=100_000)
    arguments = parser.parse_args()
    for line in itertools.chain(
        report(arguments.runs, arguments.looks), drift(arguments.runs), few_dirty(arguments.runs)
    ):
        print(line, flush=True)


if __name__ == "__main__":
    main()
