"""What the present is held against: the certificate, and the predictions on val and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from serving.batch.scorer import Row
from stages.common.base.errors import StageError
from stages.common.base.files import read_json
from stages.common.base.paths import REPORTS
from stages.common.base.photos import read_predictions
from stages.common.bounds import Floats, precision_at_share
from tools.drift import shift
from tools.drift.predictions import refused
from tools.drift.shift import Scores

FEWEST = 50  # photos that an estimate needs
SURE = 0.01  # p-value of an alarm, divided among the sources

Report = dict[str, Any]


@dataclass(frozen=True)
class Certificate:
    """What was certified: dirty photos called clean for each clean one, at equal shares; and its upper bound."""

    t_clean: float
    target: float
    ratio: float
    ratio_high: float

    @classmethod
    def read(cls) -> Certificate:
        """From reports/threshold.json. Raises StageError."""
        content = read_json(REPORTS / "threshold.json")
        try:
            row = max(content["at_dirty_shares"], key=lambda row: row["dirty_share"])  # the least rounded
            odds = row["dirty_share"] / (1 - row["dirty_share"])
            ratio, high = ((1 / row[name] - 1) / odds for name in ("precision", "precision_low"))
            return cls(content["T_clean"], content["promise"]["clean"]["target_precision"], ratio, high)
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise StageError(f"{REPORTS}/threshold.json has no table of dirty shares: {error!r}; dvc repro") from error

    @property
    def covers(self) -> float:
        """The largest share of dirty cars at which the target is certified."""
        return 1 / (1 + self.ratio_high / (1 / self.target - 1))


class Reference:
    """The predictions on val and test, and what present photos look like beside them."""

    def __init__(self, certificate: Certificate, edges: Floats | None = None) -> None:
        """`edges` of the bins, where present scores come in bins. Raises StageError for no predictions."""
        known = [read_predictions(split) for split in ("val", "test")]
        is_clean, p = (np.concatenate([getattr(one, name) for one in known]) for name in ("is_clean", "p_clean"))
        self.certificate = certificate
        self.edges = shift.quantiles(p[is_clean], p[~is_clean]) if edges is None else edges
        self.clean, self.dirty, self.dirty_p = self.scores(p[is_clean]), self.scores(p[~is_clean]), p[~is_clean]
        if not self.clean.clean_rate > self.dirty.clean_rate:
            raise StageError("on val and test the model calls no more clean cars clean than dirty ones: no estimate")

    def scores(self, p_clean: ArrayLike) -> Scores:
        """Scores in the bins of the reference."""
        return Scores.from_photos(p_clean, self.edges, self.certificate.t_clean)

    def rows(self, rows: Sequence[Row], among: int = 1) -> Report:
        """What some rows of a file say."""
        now = self.scores([row.p_clean for row in rows if row.p_clean is not None])
        return {"photos": len(rows), "refused": refused(rows), **self.now(now, among)}

    def now(self, now: Scores, among: int = 1) -> Report:
        """Share of dirty cars, precision of clean, and whether the share alone explains the scores; `among` so many
        sources, which share SURE."""
        if now.photos < FEWEST:
            return {"verdicts": int(now.photos), "note": f"fewer than {FEWEST} verdicts tell too little"}
        rng = np.random.default_rng(0)
        share = float(shift.closed_form(self.clean.clean_rate, self.dirty.clean_rate, now.clean_rate))
        low, high = shift.interval(self.clean, self.dirty, now, rng)
        tests = shift.explained(self.clean, self.dirty, now, self.edges, rng)
        if tests.p_value <= SURE and among > 1:  # a p-value from few draws is never as low as a part of SURE
            tests = shift.explained(self.clean, self.dirty, now, self.edges, rng, among * shift.DRAWS)
        ratios = (self.certificate.ratio, self.certificate.ratio_high)
        precision, certified = precision_at_share(ratios, min(share, 1 - 1e-9)).tolist()
        needed = shift.photos_needed(self.clean, self.dirty_p, share, self.edges, SURE)
        nearer = self.scores(shift.nearer(self.dirty_p)).clean_rate
        report: Report = {
            "verdicts": int(now.photos), "clean_rate": now.clean_rate,
            "dirty_share": share, "dirty_share_low": low, "dirty_share_high": high,
            "dirty_share_em": shift.em(self.clean, self.dirty, now),
            "precision_clean": precision, "precision_clean_certified": certified,
            "distance": tests.distance, "p_value": tests.p_value,
            "false_clean_rate": self.dirty.clean_rate, "false_clean_rate_nearer": nearer, "photos_needed": needed,
        }  # fmt: skip
        if needed is None or needed > now.photos:
            shown = f"about {needed:,} photos would likely show it" if needed else "no number of photos would show it"
            report["note"] = f"few dirty cars: had they come so near that {nearer:.0%} were called clean, {shown}"
        return report
