"""What the pretrained backbone sees in photos: one vector each. It has seen none of their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from stages.common.base.errors import StageError
from stages.common.base.photos import Photo
from stages.common.model import Normalise
from stages.common.pixels.photo_set import PhotoSet
from stages.common.scoring.score import pick_device
from stages.train.params import Params
from stages.train.trainer import build

MIN_SIZE = 224  # pixels; measured on the sample at 128: 0.55 of the first 50 listed are wrong labels instead of 0.8
BATCH = 32

Features = NDArray[np.float32]


def features(photos: Sequence[Photo], params: Params) -> Features:
    """What the backbone's last layer before its classifier says of each photo, `[N, F]`, with a progress bar.

    Raises StageError for a photo that cannot be read, and for a backbone that is missing or not of `params.model`.
    """
    size, device = max(MIN_SIZE, params.img_size), pick_device()
    model = build(replace(params, img_size=size), device).eval()
    config: Any = model.pretrained_cfg
    normalise = Normalise(tuple(config["mean"]), tuple(config["std"])).to(device)
    found = []
    with torch.inference_mode(), tqdm(total=len(photos), desc="features", unit="photo", disable=None) as progress:
        for pixels in PhotoSet(params.data, photos, size).batches(BATCH):
            images = normalise(torch.from_numpy(pixels).to(device)).contiguous(memory_format=torch.channels_last)
            network: Any = model  # timm's models share these two methods, which nn.Module does not know
            found.append(network.forward_head(network.forward_features(images), pre_logits=True).cpu().numpy())
            progress.update(len(pixels))
    result: Features = np.concatenate(found)
    if not np.isfinite(result).all():
        raise StageError(f"{params.model} gives features that are not finite numbers; choose another `model`")
    return result
