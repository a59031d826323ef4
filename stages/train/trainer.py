"""The network and everything that changes it in a step: augmentation, loss, optimiser, schedule, moving average."""

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from stages.common.base.errors import StageError
from stages.common.base.paths import BACKBONE
from stages.common.base.photos import CLEAN_LABEL, DIRTY_LABEL
from stages.common.network.model import Normalise, check_image_size, classifier_prefixes, create
from stages.train import augment
from stages.train.distributed import Ranks
from stages.train.params import Params, TrainParams
from stages.train.precision import pick_precision


def build(params: Params, device: torch.device) -> nn.Module:
    """The network with the backbone's weights and a seeded random classifier, on `device`, channels last."""
    torch.manual_seed(params.train.seed)
    model = create(params.model)
    check_image_size(model, params.model, params.img_size)
    try:
        missing, unexpected = model.load_state_dict(load_file(BACKBONE), strict=False)
    except Exception as error:  # a file that does not fit, or safetensors' own
        raise StageError(f"{BACKBONE} does not fit {params.model}: {error}; run `dvc repro backbone`") from error
    if unexpected or not all(name.startswith(classifier_prefixes(model)) for name in missing):
        raise StageError(f"{BACKBONE} is not of {params.model}; run `dvc repro backbone`")
    for name in missing:  # some architectures start a classifier so wide that its first gradients undo the backbone
        parameter = model.get_parameter(name)
        nn.init.trunc_normal_(parameter, std=0.01) if parameter.ndim > 1 else nn.init.zeros_(parameter)
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class Trainer:
    """One process's part of a training run."""

    def __init__(self, params: Params, labels: NDArray[np.int64], steps: int, ranks: Ranks) -> None:
        train = params.train
        self.params, self.ranks, self.device = params, ranks, ranks.device
        self.model = build(params, self.device)
        self.precision = pick_precision(self.model, params.img_size, self.device, train)
        config: Any = self.model.pretrained_cfg
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        self.normalise = Normalise(self.mean, self.std).to(self.device)
        self.ema = ModelEmaV3(self.model, decay=ema_decay(train.ema_horizon, steps)) if train.ema_horizon else None
        self.parallel: Any = (
            DistributedDataParallel(self.model, gradient_as_bucket_view=True) if ranks.world > 1 else self.model
        )
        self.forward: Any = compiled(self.parallel, self.device) if train.compile else self.parallel
        self.weights = class_weights(labels, train).to(self.device)
        groups = param_groups_weight_decay(self.model, train.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=train.lr, fused=True)
        self.schedule = LambdaLR(self.optimizer, lambda step: lr_factor(step, steps, train.warmup))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)

    @property
    def eval_model(self) -> nn.Module:
        """The model that is scored and kept: the moving average of the weights where there is one."""
        return self.model if self.ema is None else self.ema.module

    def state(self) -> dict[str, Any]:
        """All that the next step depends on; random numbers are drawn anew for each step and have no state."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Be as when `state` was taken."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {
            "model": self.model, "ema": self.ema, "optimizer": self.optimizer, "schedule": self.schedule,
            "scaler": self.scaler,
        }  # fmt: skip
        return {name: part for name, part in parts.items() if part is not None}

    def step(self, images: Tensor, labels: Tensor, positions: Tensor, epoch: int, step: int) -> Tensor:
        """One optimiser step on this process's share of a batch: uint8 `[N, S, S, 3]`, labels and positions in the
        epoch `[N]`. The loss of the batch, detached and still on the device: reading it would make every step wait."""
        seed = self.params.train.seed
        torch.manual_seed(step_seed(seed, epoch, step, self.ranks.rank))  # dropout and the like
        draws = augment.draw(seed, epoch, positions.tolist())
        batch = [tensor.to(self.device, non_blocking=True) for tensor in (images, labels, draws)]
        parts = list(zip(*(tensor.chunk(self.params.train.accumulate) for tensor in batch), strict=True))
        self.parallel.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for part in parts:
            unfinished = self.ranks.world > 1 and part is not parts[-1]
            with self.parallel.no_sync() if unfinished else nullcontext():  # processes exchange gradients once a step
                value = self.loss(*part) / len(parts)
                self.scaler.scale(value).backward()
            losses.append(value.detach())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.ema is not None:
            self.ema.update(self.model)
        # Not once an epoch: the state, which the first process saves alone at any step, holds the losses of all.
        return self.ranks.all_reduce_mean(torch.stack(losses).sum())

    def loss(self, images: Tensor, labels: Tensor, draws: Tensor) -> Tensor:
        """The mean loss of augmented photos, uint8 `[N, S, S, 3]` on the device."""
        pixels, labels = augment.apply(images.permute(0, 3, 1, 2).float(), labels, draws, self.params.train.augment)
        inputs = self.normalise(pixels.permute(0, 2, 3, 1)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            outputs = self.forward(inputs)
        return loss(outputs.float(), labels, self.weights, self.params.train)


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """A seed for what is drawn inside the network in one step of one process."""
    return int(np.random.SeedSequence([seed, 3, epoch, step, rank]).generate_state(1, np.uint64)[0])


def compiled(module: nn.Module, device: torch.device) -> Any:
    """The module through torch.compile. Raises StageError where torch cannot compile at all, as without a compiler."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(1, device=device))
    except Exception as error:  # the backends raise as they like
        raise StageError(f"params.yaml: train.compile: torch.compile does not work here: {error}") from error
    return torch.compile(module)


def class_weights(labels: NDArray[np.int64], params: TrainParams) -> Tensor:
    """The weight of each label in the loss, `[2]`. auto: inverse to the class's count, one photo weighing 1 on average.

    They add to what the sampler does: with a balancing sampler, `none` is the usual choice.
    """
    weights = torch.ones(2)
    if params.class_weights == "auto":
        for label in (CLEAN_LABEL, DIRTY_LABEL):
            weights[label] = len(labels) / (2 * int((labels == label).sum()))
    elif params.class_weights != "none":
        weights[CLEAN_LABEL], weights[DIRTY_LABEL] = params.class_weights
    return weights


def loss(outputs: Tensor, labels: Tensor, weights: Tensor, params: TrainParams) -> Tensor:
    """Mean weighted cross-entropy, or focal loss (Lin et al. 2017), of outputs `[N, 2]`.

    The weighted losses are divided by N, not by the sum of weights, so that the mean over processes is the mean over
    the global batch.
    """
    each = F.cross_entropy(outputs, labels, label_smoothing=params.label_smoothing, reduction="none")
    if params.loss == "focal":
        p_true = outputs.softmax(1).gather(1, labels[:, None])[:, 0]
        doubt = (1 - p_true).clamp(min=torch.finfo(p_true.dtype).tiny)  # a root has no gradient at 0
        each = (params.focal_gamma * doubt.log()).exp() * each  # not **, which may be a sqrt: see devices.py
    return (weights[labels] * each).mean()


def ema_decay(horizon: float, steps: int) -> float:
    """The decay with which a moving average reaches back over a fraction `horizon` of all steps."""
    return 1 - 1 / max(1.0, horizon * steps)


def lr_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the full learning rate at `step` of `steps`: a linear rise over `warmup` of them, then a cosine to 0."""
    rise = round(warmup * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
