"""A network's scores of photos."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from serving.photo.cores import usable_cores
from stages.common.base.errors import StageError
from stages.common.model import Normalise, clean_logit
from stages.common.pixels.photo_set import PhotoSet
from stages.common.scoring.loader import loader
from stages.common.scoring.malloc import keep_freed_memory


def pick_device() -> torch.device:
    """The first GPU, or the CPU with as many threads as cores are usable."""
    if torch.cuda.is_available():
        torch.backends.cudnn.allow_tf32 = False  # scores are compared with other runtimes to the last digits
        return torch.device("cuda", 0)
    torch.set_num_threads(usable_cores())
    keep_freed_memory()
    return torch.device("cpu")


def score(
    model: nn.Module,
    normalise: Normalise,
    photos: PhotoSet,
    *,
    batch_size: int,
    num_workers: int,
    title: str = "",
    precision: torch.dtype = torch.float32,
) -> NDArray[np.float64]:
    """The logit of clean against dirty for every photo, `[N]`, in their order, on the device the model is on.

    `precision`: of autocast; float32 is off (on a GPU torch makes convolutions TF32 unless `pick_device` chose it).
    `title` shows a progress bar.
    """
    device = next(model.parameters()).device
    batches = [range(start, min(start + batch_size, len(photos))) for start in range(0, len(photos), batch_size)]
    loaded = loader(photos, batches, device, num_workers)
    logits = [torch.empty(0, dtype=torch.float64)]
    model.eval()
    with torch.inference_mode():
        for images, _ in tqdm(loaded, desc=title, unit="batch", disable=None if title else True):
            batch = normalise(images.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, precision, enabled=precision is not torch.float32):
                outputs = model(batch)
            logits.append(clean_logit(outputs.float()).double().cpu())
    result: NDArray[np.float64] = torch.cat(logits).numpy()
    if not np.isfinite(result).all():
        raise StageError("the model's scores are not finite numbers; train again with a lower train.lr")
    return result
