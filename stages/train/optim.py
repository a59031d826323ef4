"""Loss, learning rate, and the arithmetic a network trains in."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.common.base.photos import CLEAN, DIRTY
from stages.train.params import TrainParams
from stages.train.portable import is_portable

DEPTHWISE_LIMIT = 0.05  # share of the multiplications; see `pick_precision`


def class_weights(labels: NDArray[np.int64], params: TrainParams) -> Tensor:
    """The weight of each label in the loss, `[2]`. auto: inverse to the class's count, one photo weighing 1 on average.

    They add to what the sampler does: with a balancing sampler, `none` is the usual choice.
    """
    weights = torch.ones(2)
    if params.class_weights == "auto":
        for label in (CLEAN, DIRTY):
            weights[label] = len(labels) / (2 * int((labels == label).sum()))
    elif params.class_weights != "none":
        weights[CLEAN], weights[DIRTY] = params.class_weights
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
        each = doubt**params.focal_gamma * each
    return (weights[labels] * each).mean()


def lr_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the full learning rate at `step` of `steps`: a linear rise over `warmup` of them, then a cosine to 0."""
    rise = round(warmup * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def pick_precision(model: nn.Module, size: int, device: torch.device, params: TrainParams) -> torch.dtype:
    """What autocast computes in; float32 means off.

    auto, on a GPU: bfloat16 where it has it, else float16. On a CPU: float32 in deterministic training, so that the CPU
    does not decide. Otherwise bfloat16 where it has the instructions and depthwise convolutions do less than
    DEPTHWISE_LIMIT of the work. They are slower in bfloat16 there: measured on a 2-core AVX-512 CPU it doubles
    resnet50's speed and costs tf_efficientnet_lite0 a fifth of its own. The rule counts multiplications, so that it
    never depends on a timing.
    """
    named = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if params.amp != "auto":
        return named[params.amp]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if is_portable(params):
        return torch.float32
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast and depthwise_share(model, size) < DEPTHWISE_LIMIT else torch.float32


def depthwise_share(model: nn.Module, size: int) -> float:
    """The share of a model's multiplications that happen in depthwise convolutions, on one size x size image."""
    work = {True: 0, False: 0}

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            depthwise = layer.groups > 1 and layer.groups == layer.in_channels
            work[depthwise] += output.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            work[False] += output.numel() * layer.in_features

    hooks = [layer.register_forward_hook(count) for layer in model.modules()]
    model.eval()
    with torch.inference_mode():
        model(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
    for hook in hooks:
        hook.remove()
    return work[True] / (work[True] + work[False])
