"""The training loop, one process of one or several."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from stages.common.data import CLEAN, Photo, read_groups, usable_photos
from stages.common.loader import loader
from stages.common.model import Checkpoint
from stages.common.params import load
from stages.common.pixels import PhotoSet
from stages.common.reports import read_json, write_json
from stages.common.scoring import score
from stages.train.distributed import Ranks, process_group
from stages.train.log import Log, SilentLog
from stages.train.params import Params
from stages.train.progress import Best, Progress
from stages.train.resume import Memory, memory, run_key
from stages.train.sampling import Batches, Positioned, hold_out
from stages.train.trainer import BACKBONE, Trainer

SPLIT_CHECK = Path("reports/split_check.json")
CHECKPOINT, REPORT = Path("artifacts/best.pt"), Path("reports/train.json")
SCORE_BATCH = 64


def run() -> None:
    """What every training process does: train, choose the checkpoint; the first one writes it."""
    params = load(Params)
    choose_algorithms(params.train.deterministic)
    photos = usable_photos(Path(params.data.root), "train")
    groups = read_groups([photo.name for photo in photos])
    fit, held = hold_out(photos, groups, params.train.holdout, params.train.seed)
    version = read_json(SPLIT_CHECK)["data_version"]
    with process_group() as ranks:
        key = run_key(params, fit, held, version, BACKBONE, ranks)
        with memory(key, params.train.save_every, ranks) as states:
            trainer, best = train(params, fit, held, ranks, states)
            if ranks.first:
                weights, epoch = best.weights, best.epoch + 1
                checkpoint = Checkpoint(
                    params.model, params.img_size, trainer.mean, trainer.std, version, epoch, weights
                )
                checkpoint.save(CHECKPOINT)
                precision = str(trainer.precision).removeprefix("torch.")
                write_json(REPORT, {"best_epoch": epoch, "holdout_auc": best.auc, "fit": len(fit),
                                    "held_out": len(held), "processes": ranks.world, "device": ranks.device.type,
                                    "precision": precision})  # fmt: skip
            ranks.wait()
            states.clear()


def choose_algorithms(deterministic: bool) -> None:
    """Repeatable algorithms, or on a GPU whichever prove quickest."""
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with a fixed workspace
        # A debugging aid that comes with it, and costs.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def train(params: Params, fit: list[Photo], held: list[Photo], ranks: Ranks, states: Memory) -> tuple[Trainer, Best]:
    """Train on `fit`, choosing the epoch on `held`; go on from the state that an earlier run left."""
    train = params.train
    labels = np.array([photo.label for photo in fit])
    batches = Batches(labels, train, ranks.rank, ranks.world)  # complains before photos are decoded
    photos = Positioned(params.data, fit, params.img_size)
    held_out = PhotoSet(params.data, held[ranks.rank :: ranks.world], params.img_size)
    loaded = loader(photos, batches, ranks.device, train.num_workers)
    trainer, progress = Trainer(params, labels, train.epochs * len(batches), ranks), Progress()
    if state := ranks.shared(states.load()):
        trainer.restore(state["trainer"])
        progress = Progress.of(state["progress"], ranks.device)
        if ranks.first:
            print(f"goes on from step {progress.step} of epoch {progress.epoch + 1}", file=sys.stderr)
    done = (progress.epoch * len(batches) + progress.step) * train.batch_size
    total = train.epochs * len(batches) * train.batch_size
    with Log(total, done, tensorboard=train.tensorboard) if ranks.first else SilentLog() as log:
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
            progress.best.offer(metrics["holdout_auc"], progress.epoch, trainer.watched)
            log.epoch(progress.epoch, metrics)
            progress.next_epoch(metrics)
    return trainer, progress.best


def holdout_auc(trainer: Trainer, held: list[Photo], mine: PhotoSet, ranks: Ranks) -> float:
    """ROC-AUC on the held-out photos, each process scoring its share of them, `held[rank::world]`."""
    ranks.share_weights(trainer.watched)
    workers = trainer.params.train.num_workers
    logits = np.empty(len(held))
    shares = ranks.gathered(
        score(trainer.watched, trainer.normalise, mine, batch_size=SCORE_BATCH, num_workers=workers)
    )
    for rank, share in enumerate(shares):
        logits[rank :: ranks.world] = share
    return float(roc_auc_score([photo.label == CLEAN for photo in held], logits))
