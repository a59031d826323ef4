"""Photos that lie or cost: small files, each built to mislead a decoder or to keep it busy."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

import serving.inference.photo.decode  # noqa: F401  # registers HEIF


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


def jpeg_of_many_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: each passes over all coefficients."""
    data = encode(Image.new("L", (width, height), 90), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + b"\xff\xd9"


def jpeg_of_many_segments(count: int) -> bytes:
    """A JPEG with that many tiny Exif segments, which Pillow joins one by one."""
    data = encode(Image.new("RGB", (64, 48)), "JPEG")
    return data[:2] + b"\xff\xe1\0\x0aExif\0\0II" * count + data[2:]


def jpeg_of_junk(count: int) -> bytes:
    """A JPEG with bytes between its segments, which Pillow reads one by one."""
    data = encode(Image.new("RGB", (64, 48)), "JPEG")
    return data[:20] + b"\0" * count + data[20:]


def webp_of_one_colour(width: int, height: int) -> bytes:
    """A lossless WebP of any size in some 46 bytes: a canvas of one colour takes no bits a pixel."""
    bits = (width - 1) | (height - 1) << 14 | 1 << 28  # with alpha; version 0
    # No transform, no colour cache, no meta prefix codes; five prefix codes of one symbol each, which take no bits.
    stream = sum(0b0001 << 3 + 4 * number for number in range(5))
    payload = b"\x2f" + struct.pack("<I", bits) + stream.to_bytes(8, "little")
    payload += b"\0" * (len(payload) % 2)
    chunk = b"VP8L" + struct.pack("<I", len(payload)) + payload
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def bmp_of_runs(width: int, height: int) -> bytes:
    """A run-length encoded BMP of any size, which Pillow decodes in Python."""
    runs = b"\xff\1" * 400 + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(runs), 0, 0, 54 + 1024) + header + bytes(1024) + runs


def tiff(entries: Sequence[tuple[int, int, int, int]], data: bytes = b"") -> bytes:
    """A little-endian TIFF: entries of tag, type, count and value or place; `data` begins behind the directory."""
    directory = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4) + data


def tiff_of_many_strips(strips: int) -> bytes:
    """A TIFF in one-row strips of one pixel that all lie at one place; with their numbers, 4 bytes a strip."""
    start = 8 + 2 + 12 * 8 + 4
    entries = [(256, 4, 1, 1), (257, 4, 1, strips), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
               (273, 4, strips, start), (278, 4, 1, 1), (279, 4, strips, start)]  # fmt: skip
    return tiff(entries, struct.pack("<I", start) * strips)


def tiff_of_a_large_tile(side: int) -> bytes:
    """A TIFF of 16 x 16 pixels in one deflated tile of side x side."""
    packed = zlib.compressobj(9)
    tile = b"".join(packed.compress(bytes(side)) for _ in range(side)) + packed.flush()
    start = 8 + 2 + 12 * 9 + 4
    entries = [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
               (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, start), (325, 4, 1, len(tile))]  # fmt: skip
    return tiff(entries, tile)


def avif_larger_than_declared(side: int) -> bytes:
    """An AVIF whose container says 64 x 64 and whose picture has side x side."""
    data = encode(Image.new("L", (side, side), 90), "AVIF", speed=10)
    assert data.count(struct.pack(">II", side, side)) == 1
    return data.replace(struct.pack(">II", side, side), struct.pack(">II", 64, 64))


def heic_larger_than_declared(side: int) -> bytes:
    """A HEIC that lies likewise."""
    data = encode(Image.new("RGB", (side, side), (90, 80, 70)), "HEIF")
    return data.replace(struct.pack(">II", side, side), struct.pack(">II", 64, 64))


def png_of_many_chunks(count: int) -> bytes:
    """A PNG with that many empty pieces of data, which Pillow reads one by one."""
    data = encode(Image.new("L", (64, 48)), "PNG")
    at = data.index(b"IDAT") - 4
    return data[:at] + png_chunk(b"IDAT", b"") * count + data[at:]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, packed: bytes, colours: int) -> bytes:
    """A PNG that declares any size, with any data. `colours`: its colour type, 0 grey, 2 RGB, 6 RGBA; 8 bits each."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")


def png_of_zeros(width: int, height: int) -> bytes:
    """A PNG of any size, with alpha, that deflate made a thousand times smaller."""
    packed = zlib.compressobj(1)
    pixels = b"".join(packed.compress(bytes(1 + 4 * width)) for _ in range(height)) + packed.flush()
    return png(width, height, pixels, colours=6)


def gif_larger_than_declared(side: int) -> bytes:
    """A GIF with a screen of 16 x 16 and a first frame of side x side."""
    data = bytearray(encode(Image.new("P", (16, 16)), "GIF"))
    at = data.index(b",", 13 + 3 * 2)
    data[at + 5 : at + 9] = struct.pack("<HH", side, side)
    return bytes(data)


def gif_of_many_blocks(count: int) -> bytes:
    """A GIF with a comment of that many blocks before its first frame."""
    data = encode(Image.new("L", (16, 16)), "GIF")
    at = 13 + (3 << (data[10] & 7) + 1)
    return data[:at] + b"\x21\xfe" + b"\1x" * count + b"\0" + data[at:]


# Every case as large as it was found to hurt, or near the limits: by a name, what makes it.
CASES: dict[str, Callable[[], bytes]] = {
    "progressive JPEG 16000 x 7400, 1,000 scans": lambda: jpeg_of_many_scans(16000, 7400, 1000),
    "progressive JPEG 16000 x 7400, 12 scans": lambda: jpeg_of_many_scans(16000, 7400, 3),
    "JPEG, 1 million Exif segments": lambda: jpeg_of_many_segments(1_000_000),
    "JPEG, 2 million Exif segments": lambda: jpeg_of_many_segments(2_000_000),
    "JPEG, 20 MB of junk between segments": lambda: jpeg_of_junk(20_000_000),
    "WebP 16000 x 7400 of one colour": lambda: webp_of_one_colour(16000, 7400),
    "WebP 6400 x 5000 of one colour": lambda: webp_of_one_colour(6400, 5000),
    "RLE8 BMP 119,000,000 x 1": lambda: bmp_of_runs(119_000_000, 1),
    "RLE8 BMP 1 x 20,000": lambda: bmp_of_runs(1, 20_000),
    "TIFF, 600,000 strips": lambda: tiff_of_many_strips(600_000),
    "TIFF, 6 million strips": lambda: tiff_of_many_strips(6_000_000),
    "TIFF, 20,000 strips": lambda: tiff_of_many_strips(20_000),
    "TIFF 16 x 16 with a tile of 23000 x 23000": lambda: tiff_of_a_large_tile(23_000),
    "AVIF 64 x 64 with 10000 x 10000 inside": lambda: avif_larger_than_declared(10_000),
    "HEIC 64 x 64 with 3000 x 3000 inside": lambda: heic_larger_than_declared(3_000),
    "PNG, 1 million chunks": lambda: png_of_many_chunks(1_000_000),
    "PNG 7000 x 7000 with alpha, of zeros": lambda: png_of_zeros(7_000, 7_000),
    "GIF 16 x 16 with a frame of 60000 x 60000": lambda: gif_larger_than_declared(60_000),
    "GIF, 5 million blocks": lambda: gif_of_many_blocks(5_000_000),
}
