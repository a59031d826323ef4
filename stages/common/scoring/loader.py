"""Batches of photos on their way to the device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from stages.common.pixels.photo_set import PhotoSet


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
