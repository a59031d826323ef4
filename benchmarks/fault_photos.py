"""Photos that nobody should have to read: seeded mutations of every format, by what is wrong with them."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from functools import cache, partial

import numpy as np
from PIL import Image

from tests.support.photos_hostile import encode, png, png_chunk

Mutate = Callable[[random.Random], bytes]

OTHERS = (
    b"PK\x03\x04" + bytes(60),
    b"%PDF-1.7\n1 0 obj\n",
    b"<svg onload='alert(1)'/>",
    b"<?php x(); ?>",
    b"MZ\x90\0" + bytes(60),
    b"\x7fELF\2\1\1",
    b"#!/bin/sh\nreboot\n",
    b"\0\0\0\x18ftypmp42",
)


@cache
def seeds() -> list[bytes]:
    """Small valid photos: every format, and the modes and options in which their decoders differ."""
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8) // 2 + 60
    rgb = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a car"
    kinds: list[tuple[Image.Image, str, dict[str, object]]] = [
        *((rgb, name, {}) for name in ("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "TIFF")),
        (rgb, "JPEG", {"progressive": True, "exif": exif}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (Image.fromarray(pixels[..., 0].astype(np.uint16) * 200), "PNG", {}),
        (rgb.convert("P"), "PNG", {"transparency": 3}),
        (rgb.convert("RGBA"), "WEBP", {"lossless": True, "exif": exif}),
        (rgb, "GIF", {"save_all": True, "append_images": [rgb.rotate(90)] * 3}),
        (rgb, "TIFF", {"compression": "tiff_lzw", "exif": exif}),
        (rgb, "TIFF", {"save_all": True, "append_images": [rgb], "compression": "tiff_deflate"}),
    ]
    return [encode(image, kind, **options) for image, kind, options in kinds]


def bit_flips(rng: random.Random) -> bytes:
    data = bytearray(rng.choice(seeds()))
    head = rng.random() < 0.5  # where formats keep their structure
    for _ in range(rng.choice((1, 2, 8, 40))):
        data[rng.randrange(min(len(data), 300) if head else len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def truncation(rng: random.Random) -> bytes:
    data = rng.choice(seeds())
    start, end = sorted(rng.choices(range(len(data)), k=2))
    return rng.choice((data[:end], data[:start] + data[end:], data[:start] + bytes(end - start) + data[end:]))


def spliced(rng: random.Random) -> bytes:
    one, other = rng.choice(seeds()), rng.choice(seeds())
    cut = rng.choice((4, 12, 26, 64, rng.randrange(len(one))))
    return one[:cut] + other[rng.choice((cut, 0, rng.randrange(len(other)))) :]


def huge_dimensions(rng: random.Random) -> bytes:
    """A size that the rest of the file does not have, where each format declares it."""
    data = bytearray(rng.choice(seeds()))
    wide, high = (rng.choice((0, 1, 9000, 16383, 65535, 2**24, 2**31 - 1, 2**32 - 1)) for _ in range(2))
    if data.startswith(b"\xff\xd8"):
        at = next(i for i in range(2, len(data)) if data[i : i + 2] in (b"\xff\xc0", b"\xff\xc2"))
        data[at + 5 : at + 9] = struct.pack(">HH", high & 0xFFFF, wide & 0xFFFF)
    elif data.startswith(b"\x89PNG"):
        data[16:24] = struct.pack(">II", wide, high)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif data.startswith(b"GIF8"):
        data[6:10] = struct.pack("<HH", wide & 0xFFFF, high & 0xFFFF)
    elif data.startswith(b"BM"):
        data[18:26] = struct.pack("<II", wide, high)
    elif data.startswith(b"RIFF"):
        at = 24 if data[12:16] == b"VP8X" else 26
        data[at : at + 6] = struct.pack("<II", wide, high)[:3] * 2
    elif (at := data.find(b"ispe")) > 0:
        data[at + 8 : at + 16] = struct.pack(">II", wide, high)
    else:  # TIFF: the tags ImageWidth and ImageLength, little-endian as Pillow writes them
        for tag, value in ((256, wide), (257, high)):
            at = data.find(struct.pack("<H", tag), 8)
            data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, value)
    return bytes(data)


def polyglot(rng: random.Random) -> bytes:
    """A photo that is, or pretends to be, something else as well."""
    data = rng.choice(seeds())
    other = rng.choice(OTHERS)
    comment = b"\xff\xfe" + struct.pack(">H", len(other) + 2) + other
    inside = data[:2] + comment + data[2:] if data.startswith(b"\xff\xd8") else data[:30] + other + data[30:]
    return rng.choice((data + other, other + data, inside, data + rng.choice(seeds())))


def deep_metadata(rng: random.Random) -> bytes:
    """Metadata without end: many segments, loops, deep nesting, lies about lengths."""
    jpeg, plain, tiff = seeds()[0], seeds()[1], bytearray(seeds()[7])
    xml = b"http://ns.adobe.com/xap/1.0/\0" + b"<a>" * 9000
    entries = b"".join(struct.pack("<HHII", rng.randrange(65536), rng.randrange(14), rng.choice((1, 2**31)),
                                   rng.choice((8, 0, 2**32 - 1))) for _ in range(rng.choice((3, 4000))))  # fmt: skip
    ifd = struct.pack("<H", len(entries) // 12) + entries + struct.pack("<I", 8)  # the next directory is this one
    exif = b"Exif\0\0II*\0\x08\0\0\0" + ifd
    kind = rng.randrange(6)
    if kind < 3:
        segment = (exif, xml, b"ICC_PROFILE\0\x01\xff" + rng.randbytes(2000))[kind][:65533]
        app = b"\xff\xe1" if kind < 2 else b"\xff\xe2"
        return jpeg[:2] + (app + struct.pack(">H", len(segment) + 2) + segment) * rng.choice((1, 20)) + jpeg[2:]
    if kind == 3:
        text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(rng.choice((10, 10**6)))))
        return plain[:33] + text * rng.choice((1, 500)) + plain[33:]
    if kind == 4:
        profile = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10**6)))
        return plain[:33] + png_chunk(b"eXIf", exif[6:]) + profile + plain[33:]
    first = struct.unpack("<I", tiff[4:8])[0]
    end = first + 2 + 12 * struct.unpack("<H", tiff[first : first + 2])[0]
    tiff[end : end + 4] = struct.pack("<I", rng.choice((first, 4, len(tiff) - 1, 2**32 - 1)))
    return bytes(tiff)


@cache
def bombs() -> list[bytes]:
    """Small files of many pixels: just within the limit, beyond it, and far beyond it."""
    grey = Image.new("L", (10_000, 11_000))
    files = [encode(grey, "PNG"), encode(grey, "TIFF", compression="tiff_deflate"), encode(grey, "JPEG")]
    for side in (12_000, 60_000):
        rows = zlib.compressobj(1)
        data = b"".join(rows.compress(bytes(side + 1)) for _ in range(min(side, 20_000))) + rows.flush()
        files.append(png(side, side, data, colours=0))
    return [*files, encode(Image.new("P", (9_000, 9_000)), "GIF"), encode(Image.new("1", (30_000, 30_000)), "PNG")]


def bomb(rng: random.Random) -> bytes:
    return rng.choice(bombs())


# Each kind with its share of the photos; a bomb within the limits costs as much as a thousand others.
KINDS: dict[str, tuple[Mutate, float]] = {
    "bit flips": (bit_flips, 0.3),
    "truncations": (truncation, 0.2),
    "spliced headers": (spliced, 0.15),
    "huge dimensions": (huge_dimensions, 0.12),
    "polyglots": (polyglot, 0.1),
    "deep metadata": (deep_metadata, 0.1285),
    "bombs": (bomb, 0.0015),
}


def draw(seed: int, count: int) -> list[tuple[str, Callable[[], bytes]]]:
    """`count` photos as (kind, maker), each from (seed, its number) alone."""
    rng = random.Random(seed)
    kinds = rng.choices(list(KINDS), [share for _, share in KINDS.values()], k=count)
    return [(kind, partial(KINDS[kind][0], random.Random(f"{seed} {i}"))) for i, kind in enumerate(kinds)]
