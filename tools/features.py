"""What the pretrained backbone sees in photos: one vector each. It has seen none of their labels."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from serving.cores import usable_cores
from stages.common.data import Photo, read_pixels
from stages.common.errors import StageError
from stages.common.model import Normalise, pick_device
from stages.train.params import Params
from stages.train.trainer import build

MIN_SIZE = 224  # pixels; measured on the sample at 128: 0.55 of the first 50 listed are wrong labels instead of 0.8
BATCH = 32

Features = NDArray[np.float32]


def features(photos: Sequence[Photo], params: Params) -> Features:
    """What the backbone's last layer before its classifier says of each photo, `[N, F]`, with a progress bar.

    Decoding runs on every core ahead of the network, which runs on the GPU or on every core. Raises StageError for a
    photo that cannot be read, and for a backbone that is missing or not of `params.model`.
    """
    size, device = max(MIN_SIZE, params.img_size), pick_device()
    model = build(replace(params, img_size=size), device).eval()
    config: Any = model.pretrained_cfg
    normalise = Normalise(tuple(config["mean"]), tuple(config["std"])).to(device)
    found = []
    with torch.inference_mode(), tqdm(total=len(photos), desc="features", unit="photo", disable=None) as progress:
        for pixels in _batches(Path(params.data.root), photos, size):
            images = normalise(torch.from_numpy(pixels).to(device)).contiguous(memory_format=torch.channels_last)
            network: Any = model  # timm's models share these two methods, which nn.Module does not know
            found.append(network.forward_head(network.forward_features(images), pre_logits=True).cpu().numpy())
            progress.update(len(pixels))
    result: Features = np.concatenate(found)
    if not np.isfinite(result).all():
        raise StageError(f"{params.model} gives features that are not finite numbers; choose another `model`")
    return result


def _batches(root: Path, photos: Sequence[Photo], size: int) -> Iterator[NDArray[np.uint8]]:
    """Pixels `[B, size, size, 3]` in the photos' order; the next two batches are decoded meanwhile."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        ahead: deque[list[Future[NDArray[np.uint8]]]] = deque()
        for start in range(0, len(photos), BATCH):
            ahead.append([pool.submit(read_pixels, root, photo, size) for photo in photos[start : start + BATCH]])
            if len(ahead) > 2:
                yield np.stack([future.result() for future in ahead.popleft()])
        for batch in ahead:
            yield np.stack([future.result() for future in batch])
