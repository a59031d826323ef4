"""The training loop, one process of one or several."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from dataclasses import asdict

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from serving.verdict.rule import CLASSES
from stages.common.base.files import csv_bytes, json_bytes, sha256, write_all
from stages.common.base.params import load
from stages.common.base.paths import BACKBONE, CHECKPOINT, HOLDOUT, REPORTS, TRAIN_PHOTOS
from stages.common.base.photos import CLEAN, Photo, train_photos
from stages.common.model import Checkpoint
from stages.common.pixels.photo_set import PhotoSet
from stages.common.scoring.loader import loader
from stages.common.scoring.score import score
from stages.train.distributed import Ranks, describe, process_group
from stages.train.log import Log, SilentLog
from stages.train.params import Params, TrainParams
from stages.train.portable import is_portable
from stages.train.progress import Kept, Progress
from stages.train.resume import RecoveryStore, recovery_store, run_key
from stages.train.sampling import Batches, Positioned, hold_out
from stages.train.trainer import Trainer

REPORT = REPORTS / "train.json"
SCORE_BATCH = 64
ENOUGH = 200  # held-out photos of each class; with fewer, AUC ranks the epochs by noise

_log = logging.getLogger(__name__)


def run() -> None:
    """What every training process does: train, choose the epoch to keep; the first one writes it."""
    params = load(Params)
    group_of = train_photos()
    fit, held = hold_out(list(group_of), list(group_of.values()), params.train.holdout, params.train.seed)
    version = sha256(TRAIN_PHOTOS)
    with process_group(params.train.threads if is_portable(params.train) else None) as ranks:
        choose_algorithms(params.train, gpu=ranks.device.type == "cuda")
        key = run_key(params, fit, held, version, BACKBONE, ranks)
        if ranks.first:
            advise(params.train, held)
        with recovery_store(key, params.runtime.save_every, ranks) as states:
            trainer, kept = train(params, fit, [group_of[photo] for photo in fit], held, ranks, states)
            if ranks.first:
                write(params, trainer, kept, fit, held, version)
            ranks.wait()
            states.clear()


def write(params: Params, trainer: Trainer, kept: Kept, fit: list[Photo], held: list[Photo], version: str) -> None:
    """Write the checkpoint, the list of held-out photos and the report, all or none."""
    epoch = kept.epoch + 1
    checkpoint = Checkpoint(params.model, params.img_size, trainer.mean, trainer.std, version, epoch, kept.weights)
    report = {
        "epoch": epoch,
        "holdout_auc": kept.auc,
        "fit": by_class(fit),
        "held_out": by_class(held),
        "processes": trainer.ranks.world,
        "device": trainer.device.type,
        "precision": str(trainer.precision).removeprefix("torch."),
    }
    write_all({
        CHECKPOINT: checkpoint.content(),
        HOLDOUT: csv_bytes(["path"], ([photo.name] for photo in held)),
        REPORT: json_bytes(report),
    })  # fmt: skip


def by_class(photos: list[Photo]) -> Counter[str]:
    """How many photos of each class there are."""
    return Counter(CLASSES[photo.label] for photo in photos)


def can_rank_epochs(held: list[Photo]) -> bool:
    """Whether there are enough held-out photos for `train.keep: best`."""
    return min(by_class(held)[name] for name in CLASSES) >= ENOUGH


def advise(train: TrainParams, held: list[Photo]) -> None:
    """Warn about settings that do not do what they say."""
    if train.keep == "best" and not can_rank_epochs(held):
        found = ", ".join(f"{by_class(held)[name]} {name}" for name in CLASSES)
        _log.warning(
            "train.keep: best needs %d held-out photos of each class, found %s; the last epoch is kept", ENOUGH, found
        )
    if train.sampler != "none" and train.class_weights != "none":
        _log.warning("train.class_weights adds to train.sampler: %s, which balances the classes already", train.sampler)


def choose_algorithms(train: TrainParams, *, gpu: bool) -> None:
    """Repeatable algorithms, or on a GPU whichever prove quickest."""
    deterministic = not gpu if train.deterministic == "auto" else train.deterministic
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with a fixed workspace
        # A debugging aid that comes with it, and costs.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def train(
    params: Params, fit: list[Photo], groups: list[str], held: list[Photo], ranks: Ranks, states: RecoveryStore
) -> tuple[Trainer, Kept]:
    """Train on `fit`, whose cars are `groups`, watching the AUC on `held`; resume from the state of an earlier run."""
    train = params.train
    labels = np.array([photo.label for photo in fit])
    batches = Batches(labels, groups, train, ranks.rank, ranks.world)  # complains before photos are decoded
    photos = Positioned(params.data, fit, params.img_size)
    held_out = PhotoSet(params.data, held[ranks.rank :: ranks.world], params.img_size)
    loaded = loader(photos, batches, ranks.device, params.runtime.num_workers)
    trainer, progress = Trainer(params, labels, train.epochs * len(batches), ranks), Progress()
    if ranks.first:
        print(f"train: {describe(ranks, trainer.precision)}", file=sys.stderr)
    if state := ranks.shared(states.load()):
        trainer.restore(state["trainer"])
        progress = Progress.from_state(state["progress"], ranks.device)
        if ranks.first:
            print(f"goes on from step {progress.step} of epoch {progress.epoch + 1}", file=sys.stderr)
    keep = "best" if train.keep == "best" and can_rank_epochs(held) else "last"
    done = (progress.epoch * len(batches) + progress.step) * train.batch_size
    total = train.epochs * len(batches) * train.batch_size
    with Log(total, done, tensorboard=params.runtime.tensorboard) if ranks.first else SilentLog() as log:
        for epoch, metrics in enumerate(progress.history):
            log.epoch(epoch, metrics)
        while progress.epoch < train.epochs:
            batches.begin(progress.epoch, progress.step)
            for images, labels, positions in loaded:
                progress.losses.append(trainer.step(images, labels, positions, progress.epoch, progress.step))
                progress.step += 1
                log.images(train.batch_size)
                if states.due():
                    states.save({"trainer": trainer.state(), "progress": asdict(progress)})
            metrics = {"loss": progress.mean_loss(), "holdout_auc": holdout_auc(trainer, held, held_out, ranks)}
            progress.kept.update(keep, metrics["holdout_auc"], progress.epoch, trainer.eval_model)
            log.epoch(progress.epoch, metrics)
            progress.next_epoch(metrics)
    return trainer, progress.kept


def holdout_auc(trainer: Trainer, held: list[Photo], mine: PhotoSet, ranks: Ranks) -> float:
    """ROC-AUC on the held-out photos, each process scoring its share of them, `held[rank::world]`."""
    ranks.share_weights(trainer.eval_model)
    workers = trainer.params.runtime.num_workers
    logits = np.empty(len(held))
    shares = ranks.gathered(
        score(
            trainer.eval_model,
            trainer.normalise,
            mine,
            batch_size=SCORE_BATCH,
            num_workers=workers,
            precision=trainer.precision,
        )
    )
    for rank, share in enumerate(shares):
        logits[rank :: ranks.world] = share
    return float(roc_auc_score([photo.label == CLEAN for photo in held], logits))
