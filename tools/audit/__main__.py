"""`make audit`: which labels are probably wrong? Ranks them in reports/label_audit.csv and shows them on the page.

All three splits are audited: wrong labels in val move the threshold, in test the results. Each photo is judged by a
linear head on the pretrained backbone's features that was fitted without its group (artifacts/groups.csv).

Corrections of doubted labels alone make val and test agree with the model, so that certified precision drifts up: the
wrong labels which a model shares are never doubted. Beside the suspects goes a random sample of val and test, blind.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from serving.verdict.rule import CLASSES
from stages.common.base.errors import run_stage
from stages.common.base.files import write_csv
from stages.common.base.params import load
from stages.common.base.photos import CLEAN, SPLITS, Photo, read_groups, usable_photos
from stages.split_check.page import AUDIT, AUDIT_HEADER, BLIND, write_page
from stages.train.params import Params
from tools.audit.features import features
from tools.audit.suspicion import Labels, Probabilities, out_of_fold, rank_suspects

HELD = ("val", "test")
SAMPLE = 100  # photos of each of them: an error rate of 3 % shows with a probability of 95 %
POOR_AUC = 0.7  # below it the head knows little about dirt, and the list is little more than chance


def rows(photos: list[Photo], labels: Labels, probabilities: Probabilities) -> list[tuple[object, ...]]:
    """The content of label_audit.csv, most suspicious first; `p_label` is the probability of the label it has."""
    return [
        (
            rank,
            photos[place].name,
            photos[place].name.split("/")[0],
            CLASSES[labels[place]],
            CLASSES[1 - labels[place]],
            f"{probabilities[place, labels[place]]:.6f}",
        )
        for rank, place in enumerate(rank_suspects(labels, probabilities).tolist(), 1)
    ]


def blind_sample(photos: list[Photo]) -> list[str]:
    """SAMPLE photos of val and of test in a random order, whatever the head thinks of them; the same at each audit."""
    drawn = sorted((photo.name for photo in photos), key=lambda name: hashlib.sha256(name.encode()).digest())
    kept = {name for split in HELD for name in [x for x in drawn if x.startswith(f"{split}/")][:SAMPLE]}
    return [name for name in drawn if name in kept]


def main() -> None:
    """Audit every photo, write the list, say how far it can be trusted."""
    params = load(Params)
    root = Path(params.data.root)
    photos = [photo for split in SPLITS for photo in usable_photos(root, split)]
    groups = np.array(read_groups([photo.name for photo in photos]))  # first: the features take a while
    labels = np.array([photo.label for photo in photos])
    probabilities = out_of_fold(features(photos, params), labels, groups)
    found = rows(photos, labels, probabilities)
    write_csv(AUDIT, AUDIT_HEADER, found)
    write_csv(BLIND, ["path"], ([name] for name in blind_sample(photos)))
    write_page()
    auc = roc_auc_score(labels == CLEAN, probabilities[:, CLEAN])
    print(f"{len(found)} of {len(photos)} labels are suspicious; {AUDIT} ranks them.")
    print("Correct val and test by the page's blind sample too: else they only come to agree with the model.")
    print(f"The head that judged them tells clean from dirty with an AUC of {auc:.3f} on photos it has not seen.")
    if auc < POOR_AUC:
        print("WARNING: that is too little to judge labels by. Are the backbone's weights pretrained ones?")


if __name__ == "__main__":
    run_stage("audit", main)
