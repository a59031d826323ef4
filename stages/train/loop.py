"""The training loop, in one process of one or several: what is trained on, each step, each epoch, what is kept."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from serving.inference.verdict.rule import CLASSES
from stages.common.base.errors import StageError
from stages.common.base.files import csv_bytes, json_bytes, sha256, write_atomically
from stages.common.base.params import load
from stages.common.base.paths import BACKBONE, CHECKPOINT, HOLDOUT, REPORTS, TRAIN_PHOTOS
from stages.common.base.photos import CLEAN_LABEL, Origin, Photo, train_photos
from stages.common.network.model import Checkpoint
from stages.common.network.scoring import loader, score
from stages.common.pixels.photo_set import PhotoSet
from stages.common.pixels.scratch import locked
from stages.train.devices import choose_algorithms, is_portable
from stages.train.distributed import Ranks, describe, process_group
from stages.train.keep import ENOUGH, Kept, by_class, can_rank_epochs
from stages.train.params import Params, TrainParams
from stages.train.recovery import RecoveryStore, recovery_store, run_key
from stages.train.reporter import Reporter
from stages.train.sampling import Batches, Positioned, hold_out
from stages.train.trainer import Trainer

REPORT = REPORTS / "train.json"

log = logging.getLogger(__name__)


def run() -> None:
    """What every training process does: train, choose the epoch to keep; the first one writes it."""
    params = load(Params)
    origin_of = train_photos()
    fit, held = hold_out(
        list(origin_of), [origin.group for origin in origin_of.values()], params.train.holdout, params.train.seed
    )
    with (
        process_group(params.train.threads if is_portable(params.train) else None) as ranks,
        alone(ranks),
        fitting(params, ranks),
    ):
        choose_algorithms(params.train, gpu=ranks.device.type == "cuda")
        version = sha256(TRAIN_PHOTOS)
        key = ranks.broadcast(run_key(params, fit, held, version, BACKBONE, ranks))
        if ranks.first:
            advise(params.train, held)
        with recovery_store(key, params.runtime.save_every, ranks) as states:
            trainer, kept = train(params, fit, [origin_of[photo] for photo in fit], held, ranks, states)
            if ranks.first:
                write(params, trainer, kept, fit, held, version)
            ranks.wait()
            states.clear()


@contextmanager
def alone(ranks: Ranks) -> Iterator[None]:
    """One run at a time in a folder, whose reports two would mix up. Raises StageError."""
    with locked(Path(), wait=False) if ranks.first else nullcontext(True) as free:
        if not free:
            raise StageError("training runs in this folder already; `dvc exp run --temp` trains beside it")
        yield


@contextmanager
def fitting(params: Params, ranks: Ranks) -> Iterator[None]:
    """Raises StageError where a step takes more memory than a card has."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        at_once = params.train.batch_size // ranks.world // params.train.accumulate
        raise StageError(
            f"{at_once} photos at once do not fit into the memory of {torch.cuda.get_device_name(ranks.device)}; "
            "raise train.accumulate, which trains on a batch in so many parts, or lower img_size"
        ) from error


def advise(train: TrainParams, held: list[Photo]) -> None:
    """Warn about settings that do not do what they say."""
    if train.keep == "best" and not can_rank_epochs(held):
        found = ", ".join(f"{by_class(held)[name]} {name}" for name in CLASSES)
        log.warning(
            "train.keep: best needs %d held-out photos of each class, found %s; the last epoch is kept", ENOUGH, found
        )
    if train.sampler != "none" and train.class_weights != "none":
        log.warning("train.class_weights adds to train.sampler: %s, which balances the classes already", train.sampler)


@dataclass
class Progress:
    """How far a run is: `step` steps into `epoch`, with the loss of each, and the metrics of the epochs before."""

    epoch: int = 0
    step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    kept: Kept = field(default_factory=Kept)

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> Progress:
        """What `dataclasses.asdict` made of one, with its tensors on the device again."""
        losses = [loss.to(device) for loss in state["losses"]]
        return cls(**state | {"losses": losses, "kept": Kept(**state["kept"])})

    def mean_loss(self) -> float:
        """Of this epoch. Raises StageError when it is no number any more."""
        mean = float(torch.stack(self.losses).mean())
        if not math.isfinite(mean):
            raise StageError(f"the loss is {mean} in epoch {self.epoch + 1}; lower train.lr, or set train.amp: off")
        return mean

    def next_epoch(self, metrics: dict[str, float]) -> None:
        self.history.append(metrics)
        self.epoch, self.step, self.losses = self.epoch + 1, 0, []


def train(
    params: Params, fit: list[Photo], origins: list[Origin], held: list[Photo], ranks: Ranks, states: RecoveryStore
) -> tuple[Trainer, Kept]:
    """Train on `fit`, which come from `origins`, watching the AUC on `held`; go on from the state of an earlier run."""
    train = params.train
    labels = np.array([photo.label for photo in fit])
    batches = Batches(labels, origins, train, ranks.rank, ranks.world)  # complains before photos are decoded
    photos = Positioned(params.data, fit, params.img_size)
    held_out = PhotoSet(params.data, held[ranks.rank :: ranks.world], params.img_size)
    loaded = loader(photos, batches, ranks.device, params.runtime.num_workers)
    trainer, progress = Trainer(params, labels, train.epochs * len(batches), ranks), Progress()
    if ranks.first:
        print(f"train: {describe(ranks, trainer.precision)}", file=sys.stderr)
    if state := newest(states.load(), ranks):
        trainer.restore(state["trainer"])
        progress = Progress.from_state(state["progress"], ranks.device)
        if ranks.first:
            print(f"goes on from step {progress.step} of epoch {progress.epoch + 1}", file=sys.stderr)
            if state["world"] != ranks.world:
                was = state["world"]
                log.warning("%d processes, it was %d: not the bits of an undisturbed run", ranks.world, was)
    keep = "best" if train.keep == "best" and can_rank_epochs(held) else "last"
    done = (progress.epoch * len(batches) + progress.step) * train.batch_size
    total = train.epochs * len(batches) * train.batch_size
    with closing(Reporter(ranks, total, done, tensorboard=params.runtime.tensorboard)) as reporter:
        for epoch, metrics in enumerate(progress.history):
            reporter.epoch(epoch, metrics)
        while progress.epoch < train.epochs:
            batches.begin(progress.epoch, progress.step)
            for images, labels, positions in loaded:
                progress.losses.append(trainer.step(images, labels, positions, progress.epoch, progress.step))
                progress.step += 1
                reporter.bar.update(train.batch_size)
                if states.due():
                    states.save({"trainer": trainer.state(), "progress": asdict(progress), "world": ranks.world})
            metrics = {"loss": progress.mean_loss(), "holdout_auc": holdout_auc(trainer, held, held_out, ranks)}
            progress.kept.update(keep, metrics["holdout_auc"], progress.epoch, trainer.eval_model)
            reporter.epoch(progress.epoch, metrics)
            progress.next_epoch(metrics)
    return trainer, progress.kept


def newest(state: dict[str, Any] | None, ranks: Ranks) -> dict[str, Any] | None:
    """The state that is furthest on, whichever process found it on its node."""
    found = (-1, -1) if state is None else (state["progress"]["epoch"], state["progress"]["step"])
    places = ranks.all_gather(found)
    return ranks.broadcast(state, places.index(max(places)))


def holdout_auc(trainer: Trainer, held: list[Photo], mine: PhotoSet, ranks: Ranks) -> float:
    """ROC-AUC on the held-out photos, each process scoring its share of them, `held[rank::world]`."""
    ranks.broadcast_weights(trainer.eval_model)
    own = score(
        trainer.eval_model, trainer.normalise, mine,
        num_workers=trainer.params.runtime.num_workers, precision=trainer.precision,
    )  # fmt: skip
    logits = np.empty(len(held))
    for rank, share in enumerate(ranks.all_gather(own)):
        logits[rank :: ranks.world] = share
    return float(roc_auc_score([photo.label == CLEAN_LABEL for photo in held], logits))


def write(params: Params, trainer: Trainer, kept: Kept, fit: list[Photo], held: list[Photo], version: str) -> None:
    """Write the checkpoint, the list of held-out photos and the report, all or none."""
    epoch = kept.epoch + 1
    checkpoint = Checkpoint(params.model, params.img_size, trainer.mean, trainer.std, version, epoch, kept.weights)
    report = {
        "epoch": epoch, "holdout_auc": kept.auc, "fit": by_class(fit), "held_out": by_class(held),
        "processes": trainer.ranks.world, "device": trainer.device.type,
        "precision": str(trainer.precision).removeprefix("torch."),
    }  # fmt: skip
    write_atomically({
        CHECKPOINT: checkpoint.content(),
        HOLDOUT: csv_bytes(["path"], ([photo.name] for photo in held)),
        REPORT: json_bytes(report),
    })  # fmt: skip
