"""Mixed precision: which numbers autocast computes in."""

import torch
from torch import Tensor, nn

from stages.train.devices import is_portable
from stages.train.params import TrainParams

DEPTHWISE_LIMIT = 0.05  # share of the multiplications; see `pick_precision`


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
