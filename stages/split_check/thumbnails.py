"""Photos made small enough that hundreds of them fit in one page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

from PIL import Image

from serving.photo.cores import usable_cores
from serving.photo.decode import PhotoError, open_photo, upright_rgb

THUMBNAIL, QUALITY = 192, 60  # longest side in pixels, of JPEG: about 5 KB each
LARGE = 448  # longest side of a photo that is to be judged as it is shown: about 20 KB


def thumbnails(root: Path, names: Iterable[str], side: int = THUMBNAIL) -> dict[str, str]:
    """The data: URI of a small JPEG of each photo; of those that cannot be read there is none."""
    paths = sorted(set(names))
    with ThreadPoolExecutor(usable_cores()) as pool:
        return {
            path: uri
            for path, uri in zip(paths, pool.map(_thumbnail, (root / p for p in paths), repeat(side)), strict=True)
            if uri
        }


def _thumbnail(path: Path, side: int) -> str | None:
    try:
        image = upright_rgb(open_photo(path.read_bytes()), side)
    except (OSError, PhotoError):  # the page says so in the photo's place
        return None
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
