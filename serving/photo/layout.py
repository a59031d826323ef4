"""What the walks over containers find, and how they read."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from serving.photo.errors import BrokenPhoto


@dataclass(frozen=True)
class Layout:
    """How a photo's pixels are stored. The last five say something of TIFFs, or of JPEGs, alone."""

    width: int
    height: int
    decoded: int | None = None  # pixels that decoding makes, where tiles or frames hold more than width x height
    pieces: int = 1  # strips or tiles of a TIFF
    piece_bytes: int = 0  # of a TIFF's largest strip or tile, which is decoded in one
    held: float = 0.0  # bytes for each pixel that a JPEG in several scans keeps until the last one
    scans: int = 1
    complete: bool = True  # whether a JPEG in one scan has its end marker

    @property
    def pixels(self) -> int:
        """How many pixels decoding makes."""
        return self.width * self.height if self.decoded is None else self.decoded

    def scaled_pixels(self, size: int) -> int:
        """Of a JPEG: how many pixels it has at the smallest DCT scale that covers size x size."""
        room = min(self.width // size, self.height // size)
        scale = next((scale for scale in (8, 4, 2) if room >= scale), 1)
        return self.pixels // scale**2


def unpack(form: str, data: bytes, at: int) -> tuple[Any, ...]:
    """Numbers at a place in a file. Raises BrokenPhoto where it ends before them."""
    try:
        return struct.unpack_from(form, data, at)
    except struct.error as error:
        raise BrokenPhoto("the photo's header is damaged or cut short") from error
