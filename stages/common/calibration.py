"""Logit -> p_clean: a two-parameter logistic, p = sigmoid(scale * logit + offset).

It undoes what weighted sampling did to the balance of the classes (the offset) and a network's over-confidence (the
scale). The map rises strictly, so it changes no order of photos and no verdict: a threshold is chosen among the same
cuts before and after it, and the threshold's promise, which hangs on ranks alone, is untouched although the map was
fitted on the same photos.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.model_selection import StratifiedKFold

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

PRIOR_SD = 1.0  # of log(scale): a scale beyond 1/7 .. 7 needs more evidence than a handful of photos


@dataclass(frozen=True)
class Calibration:
    """p_clean = sigmoid(scale * logit + offset), scale > 0."""

    scale: float
    offset: float

    def p_clean(self, logit: Floats) -> Floats:
        """Calibrated probability of clean, `[N]` for logits `[N]`, rounded to float32: the number that is served."""
        result: Floats = expit(self.scale * logit + self.offset).astype(np.float32).astype(np.float64)
        return result


def fit(logit: Floats, is_clean: Bools) -> Calibration:
    """Fit on logits `[N]` and labels `[N]`.

    Maximum likelihood with Platt's targets, (n_clean + 1) / (n_clean + 2) for clean and 1 / (n_dirty + 2) for dirty,
    which stay finite where the classes are separable (Platt 1999, "Probabilistic outputs for support vector
    machines"), and a normal prior on log(scale), so that a tiny val set neither wrecks nor turns around the map. The
    logits are standardised for the fit; one class alone, or constant scores, leave the scale to the prior.
    """
    n_clean, n_dirty = int(is_clean.sum()), int((~is_clean).sum())
    target = np.where(is_clean, (n_clean + 1) / (n_clean + 2), 1 / (n_dirty + 2))
    middle, spread = float(logit.mean()), float(logit.std()) or 1.0
    x = (logit - middle) / spread

    def cost(parameters: Floats) -> tuple[float, Floats]:
        log_scale, offset = parameters
        z = np.exp(log_scale) * x + offset
        wrong = expit(z) - target
        loss = float(np.logaddexp(0, z).sum() - target @ z + 0.5 * (log_scale / PRIOR_SD) ** 2)
        return loss, np.array([wrong @ x * np.exp(log_scale) + log_scale / PRIOR_SD**2, wrong.sum()])

    found = minimize(cost, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-10, 10), (None, None)])
    scale = float(np.exp(found.x[0])) / spread
    return Calibration(scale, float(found.x[1]) - scale * middle)


def cross_fitted(logit: Floats, is_clean: Bools, *, folds: int, seed: int) -> Floats:
    """p_clean `[N]` where each photo's map was fitted on the other folds: what calibration does to photos it has not
    seen. With fewer photos than folds in a class, the folds are as many as its photos; below two, one map for all."""
    folds = min(folds, int(is_clean.sum()), int((~is_clean).sum()))
    if folds < 2:
        return fit(logit, is_clean).p_clean(logit)
    p_clean = np.empty_like(logit)
    for rest, part in StratifiedKFold(folds, shuffle=True, random_state=seed).split(logit[:, None], is_clean):
        p_clean[part] = fit(logit[rest], is_clean[rest]).p_clean(logit[part])
    return p_clean
