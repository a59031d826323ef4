"""The segments and scans of a JPEG."""

from __future__ import annotations

import re

from serving.inference.photo.containers import Layout, unpack
from serving.inference.photo.errors import BrokenPhoto, PhotoTooCostly

SEGMENTS = 1000  # before the pixels begin
JUNK = 4096  # bytes between segments
EXIF_SEGMENTS, PHOTOSHOP_SEGMENTS = 4, 16  # Pillow reads their entries one by one, in Python
SCANS = 100  # encoders make about ten

_ALONE = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))  # markers without a length
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ONE_PASS = (0xC0, 0xC1)  # baseline and extended sequential
_SCAN = 0xDA
_NEXT_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


def read(data: bytes) -> Layout:
    """The frame and its scans. Raises BrokenPhoto or PhotoTooCostly."""
    frame: tuple[int, bytes] | None = None
    at, junk, exif, photoshop = 2, 0, 0, 0
    for _ in range(SEGMENTS):
        start = data.find(b"\xff", at)
        while start >= 0 and data[start + 1 : start + 2] == b"\xff" and start - at <= JUNK:
            start += 1
        junk += start - at
        if start < 0 or start + 1 >= len(data) or junk > JUNK:
            raise BrokenPhoto("the photo's header is damaged or cut short")
        code = data[start + 1]
        at = start + 2
        if code in _ALONE:
            continue
        (length,) = unpack(">H", data, at)
        if code == _SCAN:
            if frame is None:
                raise BrokenPhoto("the JPEG has no frame header")
            return _layout(data, *frame, at)
        if code in _FRAMES:
            frame = code, data[at + 2 : at + length]
        exif += code == 0xE1 and data.startswith(b"Exif\0", at + 2)
        photoshop += code == 0xED
        if exif > EXIF_SEGMENTS or photoshop > PHOTOSHOP_SEGMENTS:
            break
        at += length
    raise PhotoTooCostly("the JPEG has too many metadata segments; save it anew without metadata")


def _layout(data: bytes, code: int, frame: bytes, scan: int) -> Layout:
    """The layout, given the frame header's payload and where the first scan's begins."""
    height, width, count = unpack(">xHHB", frame, 0)
    sampling = [(frame[7 + 3 * i] >> 4, frame[7 + 3 * i] & 15) for i in range(count)]
    if not sampling or not all(1 <= side <= 4 for pair in sampling for side in pair):
        raise BrokenPhoto("the JPEG's frame header is damaged")
    if code in _ONE_PASS and data[scan + 2] == count:
        return Layout(width, height, complete=data.rfind(b"\xff\xd9", scan) >= 0)
    scans = 1 + data.count(b"\xff\xda", scan)
    if scans > SCANS and (scans := _scans(data, scan - 2)) > SCANS:  # a second image behind this one has scans too
        raise PhotoTooCostly(f"the JPEG has more than {SCANS} scans; save it anew")
    most = max(wide for wide, _ in sampling) * max(high for _, high in sampling)
    # All coefficients, 16 bits each, are held until the last scan.
    return Layout(width, height, held=2 * sum(wide * high for wide, high in sampling) / most, scans=scans)


def _scans(data: bytes, at: int) -> int:
    """The scans up to the end marker, of which more than SCANS need not be counted to the end."""
    scans = 0
    for _ in range(10 * SCANS):  # tables may stand between them
        found = _NEXT_MARKER.search(data, at)
        if found is None or (code := data[found.end() - 1]) == 0xD9 or scans > SCANS:
            return scans
        scans += code == _SCAN
        at = found.end() + unpack(">H", data, found.end())[0]
    return SCANS + 1
