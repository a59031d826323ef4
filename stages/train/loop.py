"""The training loop, one process of one or several."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stages.common.data import CLEAN, Photo, PhotoSet, usable_photos
from stages.common.model import Checkpoint, score
from stages.common.params import load
from stages.common.reports import read_json, write_json
from stages.train.distributed import Ranks, process_group
from stages.train.log import Log, SilentLog
from stages.train.params import Params
from stages.train.sampling import Batches, hold_out
from stages.train.trainer import Trainer

SPLIT_CHECK = Path("reports/split_check.json")
CHECKPOINT, REPORT = Path("artifacts/best.pt"), Path("reports/train.json")


@dataclass(frozen=True)
class Positioned(PhotoSet):
    """A PhotoSet addressed by (position in the epoch, photo index), which hands the position on to augmentation."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, int, int]:  # type: ignore[override]
        return *super().__getitem__(key[1]), key[0]


@dataclass
class Best:
    """The best epoch so far by AUC on the held-out photos; of equals the later, which has seen more."""

    auc: float = -1.0
    epoch: int = -1
    weights: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, auc: float, epoch: int, model: nn.Module) -> None:
        """Keep a copy of the model if it is as good as the best."""
        if auc >= self.auc:
            # Plain contiguous CPU tensors: the checkpoint does not depend on the device it was trained on.
            weights = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
            self.auc, self.epoch, self.weights = auc, epoch, weights


def run() -> None:
    """What every training process does: train, choose the checkpoint; the first one writes it."""
    params = load(Params)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with a fixed workspace
    torch.use_deterministic_algorithms(True)
    # A debugging aid that comes with it, and costs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    photos = usable_photos(Path(params.data.root), "train")
    fit, held = hold_out(photos, params.train.holdout, params.train.seed)
    with process_group() as ranks:
        trainer, best = train(params, fit, held, ranks)
        if ranks.first:
            save(params, trainer, best)
            precision = str(trainer.precision).removeprefix("torch.")
            write_json(REPORT, {"best_epoch": best.epoch + 1, "holdout_auc": best.auc, "fit": len(fit),
                                "held_out": len(held), "processes": ranks.world, "device": ranks.device.type,
                                "precision": precision})  # fmt: skip
        ranks.wait()


def train(params: Params, fit: list[Photo], held: list[Photo], ranks: Ranks) -> tuple[Trainer, Best]:
    """Train on `fit`, choosing the epoch on `held`. The best epoch is known to the first process only."""
    root, size, workers = Path(params.data.root), params.img_size, params.train.num_workers
    labels = np.array([photo.label for photo in fit])
    batches = Batches(labels, params.train, ranks.rank, ranks.world)
    data: Any = Positioned(root, fit, size)
    loader: DataLoader[Any] = DataLoader(
        data, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=ranks.device.type == "cuda",
    )  # fmt: skip
    steps = params.train.epochs * len(batches)
    trainer, best = Trainer(params, labels, steps, ranks), Best()
    images = steps * params.train.batch_size
    with Log(images, tensorboard=params.train.tensorboard) if ranks.first else SilentLog() as log:
        for epoch in range(params.train.epochs):
            batches.epoch = epoch
            mean_loss = trainer.epoch(loader, epoch, log)
            if ranks.first:
                held_set = PhotoSet(root, held, size)
                logits = score(trainer.watched, trainer.normalise, held_set, batch_size=64, num_workers=workers)
                auc = float(roc_auc_score([photo.label == CLEAN for photo in held], logits))
                best.offer(auc, epoch, trainer.watched)
                log.epoch(epoch, {"loss": mean_loss, "holdout_auc": auc})
            ranks.wait()
    return trainer, best


def save(params: Params, trainer: Trainer, best: Best) -> None:
    """Write artifacts/best.pt."""
    version = read_json(SPLIT_CHECK)["data_version"]
    Checkpoint(params.model, params.img_size, trainer.mean, trainer.std, version, best.epoch + 1, best.weights).save(
        CHECKPOINT
    )
