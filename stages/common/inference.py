"""What an ONNX network says of photos, through the code that serves it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from serving.model.predictor import Network
from stages.common.pixels.photo_set import PhotoSet


def batch_size(side: int) -> int:
    """Photos in a model call: no more pixels than 64 photos of 256 x 256 have, for the memory they take on the way."""
    return max(1, min(64, 64 * 256**2 // side**2))


def outputs(network: Network, photos: PhotoSet, title: str = "") -> NDArray[np.float64]:
    """The network's output for every photo in order, `[N]`. `title` shows a progress bar."""
    count = batch_size(photos.size)
    batches = tqdm(
        photos.batches(count), title, -(-len(photos) // count), unit="batch", disable=None if title else True
    )
    return np.concatenate([network.run(batch) for batch in batches]).astype(np.float64)
