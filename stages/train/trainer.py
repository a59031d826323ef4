"""The network and everything that changes it: one process's part of a training run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from stages.common.errors import StageError
from stages.common.model import Normalise, check_image_size, create
from stages.train import augment
from stages.train.distributed import Ranks
from stages.train.log import SilentLog
from stages.train.optim import class_weights, loss, lr_factor, pick_precision
from stages.train.params import Params

BACKBONE = Path("artifacts/backbone.safetensors")


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
