"""A network's scores of photos."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from serving.cores import usable_cores
from stages.common.errors import StageError
from stages.common.heap import keep_freed_memory
from stages.common.loader import loader
from stages.common.model import Normalise, clean_logit
from stages.common.pixels import PhotoSet


def pick_device() -> torch.device:
    """The first GPU, or the CPU with as many threads as cores are usable."""
    if torch.cuda.is_available():
        torch.backends.cudnn.allow_tf32 = False  # scores are compared with other runtimes to the last digits
        return torch.device("cuda", 0)
    torch.set_num_threads(usable_cores())
    keep_freed_memory()
    return torch.device("cpu")


def score(
    model: nn.Module, normalise: Normalise, photos: PhotoSet, *, batch_size: int, num_workers: int, title: str = ""
) -> NDArray[np.float64]:
    """The logit of clean against dirty for every photo, `[N]`, in their order, on the device the model is on.

    In float32, but for convolutions on a GPU, which torch makes TF32 unless `pick_device` chose it: scores are compared
    to the last digits later, those that only choose an epoch are not. `title` shows a progress bar.
    """
    device = next(model.parameters()).device
    batches = [range(start, min(start + batch_size, len(photos))) for start in range(0, len(photos), batch_size)]
    loaded = loader(photos, batches, device, num_workers)
    logits = [torch.empty(0, dtype=torch.float64)]
    model.eval()
    with torch.inference_mode():
        for images, _ in tqdm(loaded, desc=title, unit="batch", disable=None if title else True):
            batch = normalise(images.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
            logits.append(clean_logit(model(batch)).double().cpu())
    result: NDArray[np.float64] = torch.cat(logits).numpy()
    if not np.isfinite(result).all():
        raise StageError("the model's scores are not finite numbers; train again with a lower train.lr")
    return result
