"""`make audit`: which labels are probably wrong? Ranks them in reports/label_audit.csv and shows them on the page.

All three splits are audited: wrong labels in val move the threshold, in test the results. Each photo is judged by a
linear head on the pretrained backbone's features that was fitted without its group (artifacts/groups.csv).

Correcting doubted labels alone makes val and test agree with the model, so that certified precision drifts up: wrong
labels that a model shares are never doubted. So the list comes with a random, blind sample of val and test.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cleanlab.filter import find_label_issues
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from serving.inference.verdict.rule import CLASSES
from stages.common.base.errors import StageError, run_stage
from stages.common.base.files import write_csv
from stages.common.base.params import load
from stages.common.base.photos import CLEAN_LABEL, SPLITS, Photo, read_origins, usable_photos
from stages.common.network.model import Normalise
from stages.common.network.scoring import pick_device
from stages.common.pixels.photo_set import PhotoSet
from stages.split_check.page import AUDIT, AUDIT_HEADER, BLIND, write_page
from stages.train.params import Params
from stages.train.trainer import build

HELD = ("val", "test")
SAMPLE = 100  # photos of each of them: an error rate of 3 % shows with a probability of 95 %
POOR_AUC = 0.7  # below it the head knows little about dirt, and the list is little more than chance
MIN_SIZE = 224  # pixels; measured on the sample at 128: 0.55 of the first 50 listed are wrong labels instead of 0.8
BATCH = 32
FOLDS = 5
# Strong regularisation: the head must not memorise single wrong labels. On the sample 0.01 finds fewer.
REGULARISATION = 1e-3

Features = NDArray[np.float32]
Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]


def features(photos: Sequence[Photo], params: Params) -> Features:
    """What the backbone's last layer before its classifier says of each photo, `[N, F]`, with a progress bar.

    Raises StageError for a photo that cannot be read, and for a backbone that is missing or not of `params.model`.
    """
    size, device = max(MIN_SIZE, params.img_size), pick_device()
    model = build(replace(params, img_size=size), device).eval()
    config: Any = model.pretrained_cfg
    normalise = Normalise(tuple(config["mean"]), tuple(config["std"])).to(device)
    found = []
    with torch.inference_mode(), tqdm(total=len(photos), desc="features", unit="photo", disable=None) as progress:
        for pixels in PhotoSet(params.data, photos, size).batches(BATCH):
            images = normalise(torch.from_numpy(pixels).to(device)).contiguous(memory_format=torch.channels_last)
            network: Any = model  # timm's models share these two methods, which nn.Module does not know
            found.append(network.forward_head(network.forward_features(images), pre_logits=True).cpu().numpy())
            progress.update(len(pixels))
    result: Features = np.concatenate(found)
    if not np.isfinite(result).all():
        raise StageError(f"{params.model} gives features that are not finite numbers; choose another `model`")
    return result


def out_of_fold(features: Features, labels: Labels, groups: NDArray[np.str_]) -> Probabilities:
    """The probability of each class for each photo, `[N, 2]`, from a linear head that saw none of its group.

    The classes are not weighted: confident learning wants the probability that a photo *carries* a label, and a
    weighted head calls too many clean photos dirty (benchmarks/results/label_audit.txt has both). Raises StageError
    where a class has fewer groups than there are folds.
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


def rows(photos: list[Photo], labels: Labels, probabilities: Probabilities) -> list[tuple[object, ...]]:
    """The content of label_audit.csv, most suspicious first; `p_label` is the probability of the label it has."""
    found: list[tuple[object, ...]] = []
    for rank, place in enumerate(rank_suspects(labels, probabilities).tolist(), 1):
        name, label = photos[place].name, labels[place]
        p_label = f"{probabilities[place, label]:.6f}"
        found.append((rank, name, name.split("/")[0], CLASSES[label], CLASSES[1 - label], p_label))
    return found


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
    origins = read_origins([photo.name for photo in photos])  # first: the features take a while
    labels = np.array([photo.label for photo in photos])
    probabilities = out_of_fold(features(photos, params), labels, np.array([origin.group for origin in origins]))
    found = rows(photos, labels, probabilities)
    write_csv(AUDIT, AUDIT_HEADER, found)
    write_csv(BLIND, ["path"], ([name] for name in blind_sample(photos)))
    write_page()
    auc = roc_auc_score(labels == CLEAN_LABEL, probabilities[:, CLEAN_LABEL])
    print(f"{len(found)} of {len(photos)} labels are suspicious; {AUDIT} ranks them.")
    print("Correct val and test by the page's blind sample too: else they only come to agree with the model.")
    print(f"The head that judged them tells clean from dirty with an AUC of {auc:.3f} on photos it has not seen.")
    if auc < POOR_AUC:
        print("WARNING: that is too little to judge labels by. Are the backbone's weights pretrained ones?")


if __name__ == "__main__":
    run_stage("audit", main)
