"""The training loop, one process of one or several."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from stages.common.data import CLEAN, Photo, PhotoSet, list_photos
from stages.common.errors import StageError
from stages.common.model import Checkpoint, Normalise, check_image_size, create, score
from stages.common.params import load
from stages.common.reports import read_json, write_json
from stages.train import augment
from stages.train.distributed import Ranks, process_group
from stages.train.log import Log, SilentLog
from stages.train.optim import class_weights, loss, lr_factor, pick_precision
from stages.train.params import Params
from stages.train.sampling import Batches, hold_out

BACKBONE, SPLIT_CHECK = Path("artifacts/backbone.safetensors"), Path("reports/split_check.json")
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


def build(params: Params, device: torch.device) -> nn.Module:
    """The network with the backbone's weights and a seeded random classifier, on `device`, channels last."""
    torch.manual_seed(params.train.seed)
    model = create(params.model)
    check_image_size(model, params.model, params.img_size)
    try:
        missing, unexpected = model.load_state_dict(load_file(BACKBONE), strict=False)
    except Exception as error:  # a file that does not fit, or safetensors' own
        raise StageError(f"{BACKBONE} does not fit {params.model}: {error}; run `dvc repro backbone`") from error
    if unexpected or len(missing) > 2:  # the classifier's weight and bias
        raise StageError(f"{BACKBONE} is not of {params.model}; run `dvc repro backbone`")
    for name in missing:  # some architectures start a classifier so wide that its first gradients undo the backbone
        parameter = model.get_parameter(name)
        nn.init.trunc_normal_(parameter, std=0.01) if parameter.ndim > 1 else nn.init.zeros_(parameter)
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class Trainer:
    """The network and everything that changes it."""

    def __init__(self, params: Params, labels: NDArray[np.int64], steps: int, ranks: Ranks) -> None:
        train = params.train
        self.params, self.device, self.first = params, ranks.device, ranks.first
        self.model = build(params, self.device)
        self.precision = pick_precision(self.model, params.img_size, self.device, train.amp)
        config: Any = self.model.pretrained_cfg
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        self.normalise = Normalise(self.mean, self.std).to(self.device)
        self.ema = ModelEmaV3(self.model, decay=train.ema, use_warmup=True) if train.ema and self.first else None
        self.parallel: nn.Module = DistributedDataParallel(self.model) if ranks.world > 1 else self.model
        self.weights = class_weights(labels, train).to(self.device)
        groups = param_groups_weight_decay(self.model, train.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=train.lr, fused=True)
        self.schedule = LambdaLR(self.optimizer, lambda step: lr_factor(step, steps, train.warmup))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)

    @property
    def watched(self) -> nn.Module:
        """The model that is scored and kept: the moving average of the weights where there is one."""
        return self.model if self.ema is None else self.ema.module

    def epoch(self, loader: DataLoader[Any], epoch: int, log: SilentLog) -> float:
        """Train one epoch; the mean loss of this process. Raises StageError when it is no number any more."""
        self.parallel.train()
        losses = []  # on the device: reading each would make every step wait for it
        for images, labels, positions in loader:
            draws = augment.draw(self.params.train.seed, epoch, positions.tolist())
            batch = [tensor.to(self.device, non_blocking=True) for tensor in (images, labels, draws)]
            losses.append(self.step(*batch))
            log.images(self.params.train.batch_size)
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise StageError(f"the loss is {mean} in epoch {epoch + 1}; lower train.lr, or set train.amp: off")
        return mean

    def step(self, images: Tensor, labels: Tensor, draws: Tensor) -> Tensor:
        """One optimiser step on this process's share of a batch, uint8 `[N, S, S, 3]`; its loss, detached."""
        pixels = augment.apply(images.permute(0, 3, 1, 2).float(), draws, self.params.train.augment)
        inputs = self.normalise(pixels.permute(0, 2, 3, 1)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            outputs = self.parallel(inputs)
        value = loss(outputs.float(), labels, self.weights, self.params.train)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(value).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.ema is not None:
            self.ema.update(self.model)
        return value.detach()


def run() -> None:
    """What every training process does: train, choose the checkpoint; the first one writes it."""
    params = load(Params)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with a fixed workspace
    torch.use_deterministic_algorithms(True)
    # A debugging aid that comes with it, and costs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    photos = list_photos(Path(params.data.root), "train")
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
