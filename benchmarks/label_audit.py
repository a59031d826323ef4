"""Does the audit find wrong labels? Labels of the photos are flipped at random, and the first 50 it lists are checked.

    python -m benchmarks.label_audit [--share 0.05] [--seeds 10]

Reads the photos, params.yaml and what split_check wrote. The features do not depend on the labels, so they are computed
once; everything after them is what `make audit` runs. Also where few photos are dirty, as in a fleet (every eighth
dirty photo of the sample is kept).
"""

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from serving.inference.photo.cores import usable_cores
from stages.common.base.params import load
from stages.common.base.photos import CLEAN_LABEL, DIRTY_LABEL, SPLITS, read_origins, usable_photos
from stages.train.params import Params
from tools.audit import Features, Labels, features, out_of_fold, rank_suspects

FIRST = 50


def flip(labels: Labels, share: float, seed: int) -> NDArray[np.bool_]:
    """Which labels to get wrong: a share of all, drawn evenly."""
    wrong = np.zeros(len(labels), bool)
    wrong[np.random.default_rng(seed).choice(len(labels), round(share * len(labels)), replace=False)] = True
    return wrong


def measure(features: Features, truth: Labels, groups: NDArray[np.str_], share: float, seeds: int) -> str:
    """A line per seed, and their mean."""
    lines, precisions = [], []
    for seed in range(seeds):
        wrong = flip(truth, share, seed)
        labels = np.where(wrong, 1 - truth, truth)
        probabilities = out_of_fold(features, labels, groups)
        listed = rank_suspects(labels, probabilities)
        precision, recall = wrong[listed[:FIRST]].mean(), wrong[listed].sum() / wrong.sum()
        auc = roc_auc_score(truth == CLEAN_LABEL, probabilities[:, CLEAN_LABEL])
        precisions.append(precision)
        lines.append(f"{seed:6} {wrong.sum():8} {len(listed):8} {precision:10.2f} {recall:8.2f} {auc:8.3f}")
    head = f"{'seed':>6} {'wrong':>8} {'listed':>8} {f'first {FIRST}':>10} {'found':>8} {'AUC':>8}"
    return "\n".join([head, *lines, f"  first {FIRST}: mean {np.mean(precisions):.2f}, worst {min(precisions):.2f}\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.05, help="of the labels that are made wrong")
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    params = load(Params)
    photos = [photo for split in SPLITS for photo in usable_photos(Path(params.data.root), split)]
    truth = np.array([photo.label for photo in photos])
    groups = np.array([origin.group for origin in read_origins([photo.name for photo in photos])])
    start = time.perf_counter()
    found = features(photos, params)
    seconds = time.perf_counter() - start
    dirty = truth == DIRTY_LABEL
    every, few = np.arange(len(truth)), np.flatnonzero(~dirty | (np.cumsum(dirty) % 8 == 0))

    def run(title: str, kept: NDArray[np.int64]) -> str:
        head = f"{title}: {len(kept)} photos, {(truth[kept] == DIRTY_LABEL).mean():.1%} dirty"
        return f"{head}\n{measure(found[kept], truth[kept], groups[kept], args.share, args.seeds)}"

    text = [
        f"{params.model}; {args.share:.0%} of all labels flipped",
        f"features: {len(photos) / seconds:.1f} photos/s on {usable_cores()} cores",
        f"first {FIRST}: share of wrong labels among the first {FIRST} listed; found: share of the wrong labels listed",
        "at all; AUC: out of fold, the head fitted on the wrong labels, against the true ones\n",
        run("As `make audit` does it", every),
        run("As `make audit` does it, few dirty photos", few),
    ]
    print("\n".join(text))


if __name__ == "__main__":
    main()
