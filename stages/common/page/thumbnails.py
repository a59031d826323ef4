"""Small pictures for pages that need no other file."""

from __future__ import annotations

import base64
import io

from PIL import Image

QUALITY = 60  # of JPEG: about 5 KB for 192 pixels


def data_uri(image: Image.Image, side: int) -> str:
    """A JPEG of at most `side` pixels a side as a data: URI; `image` is made small."""
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
