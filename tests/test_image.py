"""The one decoder: every type a phone sends, upright, on white, and closed to bombs and junk."""

import io
import struct
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from serving.inference.photo.decode import decode, open_photo, upright_rgb
from serving.inference.photo.errors import BrokenPhoto, NotAPhoto, PhotoTooLarge, UnsupportedPhoto
from tests.support.photos_hostile import encode, heic_with_thumbnail, png

SIZE = 64
RED, BLUE, GREEN = (220, 30, 30), (30, 30, 220), (30, 160, 30)


def scene(width: int = 400, height: int = 300) -> Image.Image:
    """Blue on the right, on the left red above green: no turn and no mirror leaves it as it is."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    image.paste(GREEN, (0, height // 2, width // 2, height))
    return image


def assert_is_scene(pixels: np.ndarray, tolerance: int = 40) -> None:
    assert pixels.shape == (SIZE, SIZE, 3) and pixels.dtype == np.uint8
    for place, colour in (((4, 4), RED), ((4, -5), BLUE), ((-5, 4), GREEN), ((-5, -5), BLUE)):
        assert np.abs(pixels[place].astype(int) - colour).max() < tolerance


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "TIFF"])
def test_every_type(kind: str) -> None:
    assert_is_scene(decode(encode(scene(), kind), SIZE))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("P", "PNG"), ("P", "GIF"), ("YCbCr", "JPEG"), ("RGBA", "WEBP")],
)
def test_colour_modes(mode: str, kind: str) -> None:
    assert_is_scene(decode(encode(scene().convert(mode), kind), SIZE), tolerance=60)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey(mode: str) -> None:
    pixels = decode(encode(Image.new("L", (50, 40), 255).convert(mode), "PNG"), SIZE)
    assert pixels.min() >= 250


EDGES = [0, 1, 255, 256, 257, 32767, 32768, 65279, 65280, 65535]


@pytest.mark.parametrize(
    ("mode", "kind", "values"),
    [
        ("<u2", "PNG", EDGES),
        ("<u2", "TIFF", EDGES),
        (">u2", "TIFF", EDGES),
        ("<i4", "TIFF", [-(2**31), -1, *EDGES, 65536, 2**31 - 1]),
    ],
)
def test_sixteen_bit_keeps_the_high_byte(mode: str, kind: str, values: list[int]) -> None:
    pixels = np.array(values, np.int64).astype(mode)[None]
    read = upright_rgb(open_photo(encode(Image.fromarray(pixels), kind)), SIZE)
    assert read.mode == "RGB"
    high = np.clip(values, 0, 65535) >> 8
    assert np.array_equal(np.asarray(read), np.repeat(high[None, :, None], 3, axis=2))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_fewer_bits_in_a_sixteen_bit_tiff_keep_their_brightness(bits: int, compression: str | None) -> None:
    """Cameras store 12 bits in 16 and seldom say so; the high byte alone would be black."""
    values = np.full((30, 40), 200 << (bits - 8), np.uint16)
    values[0] = (1 << bits) - 1
    pixels = decode(encode(Image.fromarray(values), "TIFF", compression=compression), SIZE)
    assert abs(int(np.median(pixels)) - 200) <= 1


@pytest.mark.parametrize("tag", [281, 341])
def test_a_tiff_that_tells_its_largest_value_is_believed(tag: int) -> None:
    dark = Image.fromarray(np.full((30, 40), 100, np.uint16))
    said = ImageFileDirectory_v2()
    said[tag], said.tagtype[tag] = 4095, 3
    assert decode(encode(dark, "TIFF", tiffinfo=said), SIZE).max() == 100 >> 4


def test_a_sixteen_bit_png_is_scaled_whatever_its_values() -> None:
    assert decode(encode(Image.fromarray(np.full((30, 40), 4095, np.uint16)), "PNG"), SIZE).max() == 15


def test_sixteen_bit_takes_little_memory() -> None:
    """A file of some kilobytes can hold a hundred million such pixels."""
    data = encode(Image.fromarray(np.zeros((1000, 1000), np.uint16)), "PNG")
    tracemalloc.start()
    try:
        decode(data, SIZE)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000  # bytes, beside Pillow's own
    finally:
        tracemalloc.stop()


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    assert decode(encode(clear, "PNG"), SIZE).min() == 255
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    assert decode(encode(palette, "PNG", transparency=0), SIZE).min() == 255


def black(width: int = 400, height: int = 300) -> Image.Image:
    return Image.new("RGB", (width, height))


def exif_with_preview() -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.IFD1)[ExifTags.Base.JpegIFOffset] = encode(black(), "JPEG")
    return exif


@pytest.mark.parametrize(
    "make",
    [
        lambda: encode(scene(), "GIF", save_all=True, append_images=[black()]),
        lambda: encode(scene(), "WEBP", save_all=True, append_images=[black()]),
        lambda: encode(scene(), "AVIF", save_all=True, append_images=[black()]),
        lambda: encode(scene(), "PNG", save_all=True, append_images=[black()]),
        lambda: encode(scene(), "PNG", save_all=True, append_images=[black()], default_image=True),
        lambda: encode(scene(), "TIFF", save_all=True, append_images=[black()]),
        lambda: encode(scene(), "TIFF", save_all=True, append_images=[black()], compression="tiff_lzw"),
        lambda: encode(scene(), "MPO", save_all=True, append_images=[black()]),
        lambda: encode(scene(), "HEIF", save_all=True, append_images=[black()]),
        lambda: encode(black(), "HEIF", save_all=True, append_images=[scene()], primary_index=1),
        lambda: heic_with_thumbnail(scene(), black(200, 150)),
        lambda: encode(scene(), "JPEG", exif=exif_with_preview()),
        lambda: encode(scene(), "TIFF", exif=exif_with_preview()),
    ],
)
def test_the_primary_image_whole(make: Callable[[], bytes]) -> None:
    """No other frame, page, thumbnail or preview stands for the photo."""
    data = make()
    assert_is_scene(decode(data, SIZE), 60)
    assert_is_scene(np.asarray(upright_rgb(open_photo(data), SIZE).resize((SIZE, SIZE))), 60)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "TIFF")),
        *(("TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "jpeg")),
    ],
)
def test_every_orientation_is_undone_once(orientation: int, kind: str, options: dict[str, str]) -> None:
    turns = Image.Transpose
    # What a camera held that way stores: the inverse of what a viewer has to do.
    stored = {1: None, 2: turns.FLIP_LEFT_RIGHT, 3: turns.ROTATE_180, 4: turns.FLIP_TOP_BOTTOM, 5: turns.TRANSPOSE,
              6: turns.ROTATE_90, 7: turns.TRANSVERSE, 8: turns.ROTATE_270}[orientation]  # fmt: skip
    image = scene() if stored is None else scene().transpose(stored)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encode(image, kind, exif=exif if kind == "TIFF" else exif.tobytes(), **options)
    assert_is_scene(decode(data, SIZE), 60)
    upright = upright_rgb(open_photo(data), SIZE)
    assert upright.width > upright.height
    assert_is_scene(np.asarray(upright.resize((SIZE, SIZE))), 60)


def test_a_heic_that_does_not_turn_the_image_is_believed_before_its_exif() -> None:
    """The standard says so: phones write both and mean one turn."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encode(scene(), "HEIF", exif=exif)  # unlike bytes, an object is written as it is
    assert b"irot" not in data and exif.tobytes()[6:] in data
    assert_is_scene(decode(data, SIZE))


def test_scaled_decoding_is_close_to_full_decoding() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).resize((1600, 1200), Image.Resampling.BICUBIC)
    data = encode(noise, "JPEG", quality=90)
    full = Image.open(io.BytesIO(data)).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    assert np.abs(decode(data, SIZE).astype(int) - np.asarray(full)).mean() < 3


def test_the_pixel_cap_is_read_from_the_header() -> None:
    with pytest.raises(PhotoTooLarge, match="60000 x 60000"):
        decode(png(60_000, 60_000, b"", colours=2), SIZE)
    with pytest.raises(PhotoTooLarge):
        decode(encode(scene(), "JPEG"), SIZE, max_pixels=400 * 300 - 1)
    decode(encode(scene(), "JPEG"), SIZE, max_pixels=400 * 300)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", NotAPhoto),
        (b"hello", NotAPhoto),
        (b"\xff\xd8\xff", BrokenPhoto),
        (b"GIF89a", BrokenPhoto),
        (b"%PDF-1.7", UnsupportedPhoto),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", UnsupportedPhoto),
        (b"8BPS" + bytes(30), UnsupportedPhoto),
        (b"\0\0\0\x18ftypmp42" + bytes(30), UnsupportedPhoto),
        (encode(scene(), "JPEG2000"), UnsupportedPhoto),
        (encode(scene(), "ICO"), UnsupportedPhoto),
        (encode(scene(), "JPEG")[:-500], BrokenPhoto),
        (encode(scene(), "PNG")[:200], BrokenPhoto),
        (png(100, 100, b"", colours=2), BrokenPhoto),
    ],
)  # fmt: skip
def test_what_is_no_usable_photo(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        decode(data, SIZE)


def test_twelve_bit_colours_in_sixteen_are_refused_not_black() -> None:
    """Pillow reads them as 8-bit, where next to nothing is left of them."""
    tiff = encode(Image.new("RGB", (8, 8)), "TIFF")
    at = tiff.index(struct.pack("<HHI", 258, 3, 3))
    (where,) = struct.unpack_from("<I", tiff, at + 8)
    data = bytearray(tiff)
    data[where : where + 6] = struct.pack("<3H", 16, 16, 16)
    start = data.index(struct.pack("<HHI", 273, 4, 1)) + 8
    data[start : start + 4] = struct.pack("<I", len(data))
    length = data.index(struct.pack("<HHI", 279, 4, 1)) + 8
    data[length : length + 4] = struct.pack("<I", 8 * 8 * 6)
    with pytest.raises(UnsupportedPhoto, match="8 bits"):
        decode(bytes(data) + struct.pack("<H", 4095) * 8 * 8 * 3, SIZE)
    assert decode(bytes(data) + struct.pack("<H", 200 << 8) * 8 * 8 * 3, SIZE).max() == 200
