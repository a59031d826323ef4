"""Photos through a network on a device: their loader, the memory of a CPU, their scores."""

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, get_worker_info

from serving.inference.photo.cores import usable_cores
from stages.common.base.errors import StageError
from stages.common.network.model import Normalise, clean_logit
from stages.common.pixels.photo_set import PhotoSet, batch_size

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # <malloc.h>


def keep_freed_memory() -> None:
    """Have glibc keep what this process frees for what it allocates next, until it ends.

    By itself it takes each block beyond 32 MiB from the system and gives it back when it is freed. Activations are such
    blocks, so each step has the system clear all their pages anew: at 224 pixels, 32 photos in float32, that took a
    third of tf_efficientnet_lite0's step on 2 cores (benchmarks/results/training.txt). The price is some 15 % more
    memory at the peak. Other C libraries are left as they are.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_MAX, 0)
        set_option(_M_TRIM_THRESHOLD, -1)


def loader(
    photos: PhotoSet, batches: Iterable[Sequence[Any]], device: torch.device, num_workers: int
) -> DataLoader[Any]:
    """A DataLoader that fetches whole batches, each a list of keys of `photos`.

    For a GPU, `num_workers` processes read ahead into pinned memory while it computes. On a CPU there are none:
    reading and computing share the same cores, both use all of them, and taking turns costs nothing.
    """
    gpu = device.type == "cuda"
    workers = num_workers if gpu else 0
    data: Any = photos  # map-style; torch's Dataset adds nothing but a name, and that class needs no torch
    sampler: Any = batches
    return DataLoader(
        data, batch_sampler=sampler, collate_fn=_tensors, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=gpu, worker_init_fn=_alone,
        multiprocessing_context="fork" if workers else None,  # shares what the photo set holds
    )  # fmt: skip


def _alone(worker: int) -> None:
    """The workers are as many as the cores are good for: each decodes by itself what is not kept."""
    info: Any = get_worker_info()
    info.dataset.threads = 1


def _tensors(arrays: Sequence[np.ndarray]) -> list[Tensor]:
    return [torch.from_numpy(array) for array in arrays]


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
    num_workers: int,
    precision: torch.dtype = torch.float32,
) -> NDArray[np.float64]:
    """The logit of clean against dirty for every photo, `[N]`, in their order, on the device the model is on.

    `precision`: of autocast; float32 is off (on a GPU torch makes convolutions TF32 unless `pick_device` chose it).
    """
    device = next(model.parameters()).device
    step = batch_size(photos.size)
    batches = [range(start, min(start + step, len(photos))) for start in range(0, len(photos), step)]
    loaded = loader(photos, batches, device, num_workers)
    logits = [torch.empty(0, dtype=torch.float64)]
    model.eval()
    with torch.inference_mode():
        for images, _ in loaded:
            batch = normalise(images.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, precision, enabled=precision is not torch.float32):
                outputs = model(batch)
            logits.append(clean_logit(outputs.float()).double().cpu())
    result: NDArray[np.float64] = torch.cat(logits).numpy()
    if not np.isfinite(result).all():
        raise StageError("the model's scores are not finite numbers; train again with a lower train.lr")
    return result
