"""What a photo's container declares, and what decoding it costs: told before any decoder sees it.

Every walk over a container is bounded in steps; it only reads structure, no pixel. What a file hides from it (an AV1
frame larger than its box says) meets the limits of the process that decodes it, which follow from the declared size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serving.inference.photo import containers, jpeg
from serving.inference.photo.containers import Layout
from serving.inference.photo.errors import BrokenPhoto, NotAPhoto, PhotoTooLarge, UnsupportedPhoto

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "TIFF")
MAX_PIXELS = 120_000_000  # of a JPEG, which is scaled while it is decoded
MAX_SIDE = 65_535
MIB = 1024 * 1024

# The most pixels (50 million: a phone's HEIC has 48), then bytes and nanoseconds for each, as measured on files of 16
# million in every mode, on a core of an x86 server.
_COSTS = {
    "PNG": (50_000_000, 9, 50),
    "WEBP": (32_000_000, 23, 55),
    "AVIF": (50_000_000, 13, 50),
    "HEIF": (50_000_000, 13, 50),
    "GIF": (50_000_000, 10, 30),
    "BMP": (50_000_000, 9, 20),
    "TIFF": (50_000_000, 13, 40),
}
_PIECE_SECONDS = 60e-6  # for each strip of a TIFF, in Python
_LIGHT_BYTES, _LIGHT_SECONDS = 64 * MIB, 0.2  # what may be decoded where other work waits for it

_FTYP_FORMATS = ("AVIF", "HEIF")
_READERS: dict[bytes, tuple[tuple[str, ...], Callable[[bytes], Layout]]] = {
    b"\xff\xd8\xff": (("JPEG",), jpeg.read),
    b"\x89PNG\r\n\x1a\n": (("PNG",), containers.read_png),
    b"GIF87a": (("GIF",), containers.read_gif),
    b"GIF89a": (("GIF",), containers.read_gif),
    b"RIFF": (("WEBP",), containers.read_webp),
    b"BM": (("BMP",), containers.read_bmp),
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), (("TIFF",), containers.read_tiff)),
}
_VIDEO_BRANDS = (b"mp4", b"isom", b"qt", b"M4V", b"3gp")
_OTHER_TYPES = {
    b"%PDF": "a PDF",
    b"8BPS": "a Photoshop file",
    b"<svg": "an SVG drawing",
    b"<?xm": "an XML or SVG file",
    b"\x00\x00\x01\x00": "an icon",
    b"\x00\x00\x00\x0cjP": "JPEG 2000",
    b"\x00\x00\x00\x0cJXL": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
}


@dataclass(frozen=True)
class Header:
    """What a photo is, as its container says. Sizes in pixels, as stored."""

    formats: tuple[str, ...]  # Pillow's names; one, or the two that share a container
    layout: Layout
    bytes: int  # of the file

    @property
    def side(self) -> int:
        """The shorter side in pixels."""
        return min(self.layout.width, self.layout.height)

    def memory(self, size: int) -> int:
        """Bytes that decoding it to size x size takes at most, its file not counted."""
        if self.formats == ("JPEG",):
            return 8 * self.layout.scaled_pixels(size) + int(self.layout.held * self.layout.pixels)
        return _COSTS[self.formats[0]][1] * self.layout.pixels + self.layout.piece_bytes

    def seconds(self, size: int) -> float:
        """About how long a core takes to decode it."""
        layout = self.layout
        if self.formats != ("JPEG",):
            return _COSTS[self.formats[0]][2] * layout.pixels * 1e-9 + _PIECE_SECONDS * layout.pieces
        each = 4 + (5 + 0.4 * layout.scans if layout.held else 0)
        once = each * layout.pixels + 20 * layout.scaled_pixels(size) + 10 * self.bytes
        return once * 1e-9 * (1 if layout.complete else 3)

    def light(self, size: int) -> bool:
        """Whether it is decoded right away; all others are decoded by a process that can be ended."""
        return self.formats == ("JPEG",) and self.memory(size) <= _LIGHT_BYTES and self.seconds(size) <= _LIGHT_SECONDS


def read(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Header:
    """What a photo is. Raises NotAPhoto, UnsupportedPhoto, PhotoTooLarge, PhotoTooCostly or BrokenPhoto."""
    formats, reader = _reader(data)
    try:
        layout = reader(data)
    except IndexError as error:
        raise BrokenPhoto("the photo's header is damaged or cut short") from error
    if layout.width < 1 or layout.height < 1:
        raise BrokenPhoto("the photo's header declares no pixels")
    most = max_pixels if formats == ("JPEG",) else min(max_pixels, _COSTS[formats[0]][0])
    if layout.pixels > most or max(layout.width, layout.height) > MAX_SIDE:
        inside = "" if layout.pixels == layout.width * layout.height else f", {layout.pixels:,} to decode"
        raise PhotoTooLarge(
            f"the photo has {layout.width} x {layout.height} pixels{inside}; at most {most:,} are accepted of a "
            f"{' or '.join(formats)}, and {MAX_SIDE:,} a side"
        )
    return Header(formats, layout, len(data))


def _reader(data: bytes) -> tuple[tuple[str, ...], Callable[[bytes], Layout]]:
    """Who reads a file that begins like this. Raises NotAPhoto or UnsupportedPhoto."""
    if not data:
        raise NotAPhoto("the file is empty")
    for magic, found in _READERS.items():
        if data.startswith(magic):
            return found
    kind = next((name for magic, name in _OTHER_TYPES.items() if data.startswith(magic)), None)
    if data[4:8] == b"ftyp":
        if not data[8:12].startswith(_VIDEO_BRANDS):
            return _FTYP_FORMATS, containers.read_heif
        kind = "a video"
    if kind is not None:
        raise UnsupportedPhoto(f"this is {kind}; send one of {', '.join(FORMATS)}")
    raise NotAPhoto(f"the bytes are not a photo of a known type ({', '.join(FORMATS)})")
