"""Photos that lie or cost: small files, each built to mislead a decoder or to keep it busy."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

from PIL import Image

import serving.image  # noqa: F401  # registers HEIF


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box of HEIF and AVIF."""
    payload = b"".join(parts)
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes of a container, each its kind and its payload."""
    while data:
        size, kind = struct.unpack(">I4s", data[:8])
        yield kind, data[8:size]
        data = data[size:]


def heic_with_thumbnail(photo: Image.Image, thumbnail: Image.Image) -> bytes:
    """A HEIC whose embedded thumbnail shows something else: what an editor leaves that forgets to redo it."""
    coded = [encode(image, "HEIF", quality=80) for image in (photo, thumbnail)]
    properties, pictures = [], []
    for data in coded:
        meta = dict(boxes(dict(boxes(data))[b"meta"][4:]))
        found = dict(boxes(dict(boxes(meta[b"iprp"]))[b"ipco"]))
        properties += [box(kind, found[kind]) for kind in (b"hvcC", b"ispe")]
        pictures.append(dict(boxes(data))[b"mdat"])
    items = [box(b"infe", b"\2\0\0\0", struct.pack(">HH4s", number, 0, b"hvc1"), b"\0") for number in (1, 2)]
    of_each = [struct.pack(">HBBB", number, 2, 0x80 | (2 * number - 1), 2 * number) for number in (1, 2)]

    def meta_at(start: int) -> bytes:
        places = [struct.pack(">HHHII", number, 0, 1, start + before, len(pictures[number - 1]))
                  for number, before in ((1, 0), (2, len(pictures[0])))]  # fmt: skip
        return box(
            b"meta", bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", bytes(4), b"\0\1"),
            box(b"iloc", bytes(4), b"\x44\0", b"\0\2", *places),
            box(b"iinf", bytes(4), b"\0\2", *items),
            box(b"iref", bytes(4), box(b"thmb", struct.pack(">HHH", 2, 1, 1))),
            box(b"iprp", box(b"ipco", *properties), box(b"ipma", bytes(4), struct.pack(">I", 2), *of_each)),
        )  # fmt: skip

    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    return head + meta_at(len(head) + len(meta_at(0)) + 8) + box(b"mdat", *pictures)
