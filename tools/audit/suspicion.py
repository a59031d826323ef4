"""Which labels are probably wrong: out-of-fold probabilities, then confident learning. Pure functions of features."""

from __future__ import annotations

import numpy as np
from cleanlab.filter import find_label_issues
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from serving.verdict.rule import CLASSES
from stages.common.base.errors import StageError
from tools.audit.features import Features

FOLDS = 5
# Strong regularisation: the head must not learn single wrong labels by heart. On the sample 0.01 finds fewer.
REGULARISATION = 1e-3

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]


def out_of_fold(features: Features, labels: Labels, groups: NDArray[np.str_]) -> Probabilities:
    """The probability of each class for each photo, `[N, 2]`, from a linear head that saw none of its group.

    The classes are not weighted: confident learning wants the probability that a photo *carries* a label, and a
    weighted head calls too many clean photos dirty (benchmarks/label_audit.py has both). Raises StageError where a
    class has fewer groups than there are folds.
    """
    cars = np.unique(groups, return_inverse=True)[1]
    for label, name in enumerate(CLASSES):
        if len(np.unique(cars[labels == label])) < FOLDS:
            raise StageError(f"an audit needs {FOLDS} {name} photos that are no copies of each other, or more")
    found = np.empty((len(labels), len(CLASSES)))
    for fit, held in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(features, labels, cars):
        head = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=1000))
        found[held] = head.fit(features[fit], labels[fit]).predict_proba(features[held])
    return found


def rank_suspects(labels: Labels, probabilities: Probabilities) -> NDArray[np.int64]:
    """The photos whose label is probably wrong, by index, most suspicious first.

    Confident learning (Northcutt, Jiang and Chuang 2021) as cleanlab has it: how many labels are wrong is estimated
    from the photos that are confidently of the other class; they are ranked by the probability of the label they have.
    """
    found = find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    result: NDArray[np.int64] = np.asarray(found, np.int64)
    return result
