"""Brightness, contrast and sharpness: what they tell, and that split_check and the service measure the same."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from samples.draw import draw_photo
from serving.inference.model.predictor import Network
from serving.inference.model.quality import SIDE, quality
from serving.inference.photo import header
from serving.inference.photo.decode import decode
from stages.common.base.params import Data
from stages.common.base.photos import CLEAN_LABEL, Photo
from stages.common.pixels.photo_set import PhotoSet
from stages.convert.__main__ import contents
from stages.split_check.scan import photo_stats
from tests.support import networks
from tests.support.onnx_models import METADATA
from tests.support.photos_hostile import encode

TURNED = Image.Exif()
TURNED[0x0112] = 6  # lies on its side

Change = Callable[[Image.Image], Image.Image]


def car(number: int = 5) -> Image.Image:
    return Image.open(io.BytesIO(draw_photo(number, 0, "clean"))).convert("RGB").resize((640, 480))


def test_flat_pictures_and_those_of_a_few_pixels_have_no_edges() -> None:
    for side in (1, 2, 3, 31, 128, 129, 224):
        found = quality(np.full((side, side, 3), 51, np.uint8))
        assert found.brightness == pytest.approx(0.2, abs=1e-6) and max(found[1:]) < 1e-3, side
    stripes = np.zeros((SIDE, SIDE, 3), np.uint8)
    stripes[:, ::2] = 255  # each pixel differs from both neighbours beside it
    assert quality(stripes) == pytest.approx((0.5, 0.5, 4.0), abs=1e-4)
    chessboard = (np.indices((2 * SIDE, 2 * SIDE)) // 2).sum(0) % 2 * np.uint8(255)  # of 2 x 2 pixels
    assert quality(np.repeat(chessboard[..., None], 3, 2)) == pytest.approx((0.5, 0.5, 8.0), abs=1e-4)


def test_blur_takes_sharpness_and_darkness_takes_brightness_alone() -> None:
    sharp, *blurred = (
        quality(decode(encode(car().filter(ImageFilter.GaussianBlur(radius)), "JPEG"), 128)) for radius in (0, 4, 16)
    )
    assert sharp.sharpness > 2 * blurred[0].sharpness > 4 * blurred[1].sharpness and blurred[1].sharpness < 0.08
    dark = quality(decode(encode(car().point(lambda value: value // 4), "PNG"), 128))
    assert dark.brightness == pytest.approx(sharp.brightness / 4, rel=0.03)
    assert dark.sharpness == pytest.approx(sharp.sharpness, rel=0.1)


@pytest.mark.parametrize(("size", "off"), [(128, 1e-6), (160, 0.2), (224, 0.2), (300, 0.25)])
def test_the_service_measures_what_split_check_reports(size: int, off: float) -> None:
    """At the default size, on the very pixels."""
    for number in range(6):
        data = encode(car(number), "JPEG", quality=90)
        told, served = photo_stats(data).quality, quality(decode(data, size))
        assert served == pytest.approx(told, rel=off), (number, size)


@pytest.mark.parametrize(
    ("kind", "change", "options"),
    [
        ("JPEG", lambda image: image.resize((3000, 2000)), {"progressive": True}),
        ("JPEG", lambda image: image, {"exif": TURNED}),
        ("JPEG", lambda image: image.convert("L"), {}),
        ("PNG", lambda image: image.resize((2000, 90)), {}),
        ("PNG", lambda image: image.convert("P"), {}),
        ("WEBP", lambda image: image.resize((64, 63)), {}),
        ("HEIF", lambda image: image, {}),
    ],
)  # fmt: skip
def test_of_whatever_kind_and_shape_a_photo_is(kind: str, change: Change, options: dict[str, object]) -> None:
    data = encode(change(car()), kind, **options)
    stats = photo_stats(data)
    assert quality(decode(data, 128)) == pytest.approx(stats.quality, rel=0.02)
    assert header.read(data).side == stats.side == min(change(car()).size)


def test_a_network_s_scores_are_its_outputs_and_these_measures(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(contents(networks.exported(), METADATA.__class__(**{**vars(METADATA), "image_size": "64"})))
    (tmp_path / "a.jpg").write_bytes(encode(car(), "JPEG"))
    (tmp_path / "b.png").write_bytes(encode(car().resize((90, 70)), "PNG"))
    photos = PhotoSet(
        Data(str(tmp_path), "none", 1.0, None), [Photo(name, CLEAN_LABEL) for name in ("a.jpg", "b.png")], 64
    )
    network, pixels = Network(path), photos.pixels(range(2))
    scores = network.scores(pixels)
    assert (scores[:, :2] == network.run_both(pixels)).all() and photos.sides().tolist() == [480, 70]
    expected = [(one.brightness, one.sharpness) for one in map(quality, pixels)]
    assert scores[:, 2:] == pytest.approx(np.array(expected), rel=1e-6)
