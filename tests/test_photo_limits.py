"""Small files that cost much are refused by their structure, and what no structure tells ends with its process."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.inference.photo import header, pool
from serving.inference.photo.decode import decode, decode_here, open_photo
from serving.inference.photo.errors import (
    BrokenPhoto,
    DecodersBusy,
    PhotoError,
    PhotoTooCostly,
    PhotoTooLarge,
    UnsupportedPhoto,
)
from serving.inference.photo.header import MIB
from tests.support import photos_hostile as hostile
from tests.support.live import wait_until
from tests.support.photos_hostile import encode

ROOT = Path(__file__).parents[1]
SIZE = 64


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: hostile.jpeg_of_many_scans(64, 48, 101), PhotoTooCostly),
        (lambda: hostile.jpeg_of_many_segments(5), PhotoTooCostly),
        (lambda: hostile.jpeg_of_junk(5_000), BrokenPhoto),
        (lambda: hostile.webp_of_one_colour(16_000, 2_001), PhotoTooLarge),
        (lambda: hostile.bmp_of_runs(119_000_000, 1), UnsupportedPhoto),
        (lambda: hostile.tiff_of_many_strips(20_001), PhotoTooCostly),
        (lambda: hostile.tiff_of_a_large_tile(8_000), PhotoTooLarge),
        (lambda: hostile.png_of_many_chunks(20_001), PhotoTooCostly),
        (lambda: hostile.png(8_000, 8_000, b"", colours=6), PhotoTooLarge),
        (lambda: hostile.gif_larger_than_declared(8_000), PhotoTooLarge),
        (lambda: hostile.gif_of_many_blocks(20_001), PhotoTooCostly),
        (lambda: encode(Image.new("RGB", (64, 48)), "BMP")[:-1], BrokenPhoto),
        (lambda: hostile.png(70_000, 1, b"", colours=0), PhotoTooLarge),
    ],
)
def test_what_costs_too_much_is_refused_unread(
    make: Callable[[], bytes], error: type[PhotoError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a decoder has seen it")

    data = make()
    monkeypatch.setattr("PIL.Image.open", opened)
    monkeypatch.setattr("serving.inference.photo.pool.Pool.decode", opened)
    for read in (lambda: decode(data, SIZE), lambda: open_photo(data)):
        with pytest.raises(error):
            read()


def test_one_below_each_limit_is_read() -> None:
    assert decode(hostile.jpeg_of_many_scans(64, 48, 90), SIZE).shape == (SIZE, SIZE, 3)
    for make in (hostile.jpeg_of_many_segments, hostile.jpeg_of_junk, hostile.png_of_many_chunks):
        assert decode(make(4), SIZE).max() <= 1
    decode(hostile.webp_of_one_colour(300, 200), SIZE)
    decode(hostile.tiff_of_many_strips(3_000), SIZE)


def test_scans_of_a_second_image_do_not_count() -> None:
    """Phones put more images, and videos, behind the first."""
    data = encode(Image.new("RGB", (64, 48)), "JPEG", progressive=True)
    assert decode(data + data * 30, SIZE).shape == (SIZE, SIZE, 3)


def test_a_picture_larger_than_its_container_says() -> None:
    """What it may take follows from the size that is declared."""
    data = hostile.heic_larger_than_declared(1_000)
    assert header.read(data).layout.pixels == 64 * 64
    with pytest.raises(BrokenPhoto):
        decode(data, SIZE)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("lacking", [1, 2, 40])
def test_a_jpeg_that_lacks_its_end(progressive: bool, lacking: int) -> None:
    """One scan without an end marker stands if all its pixels are there; of several, the last may be the sharpness."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8))
    data = encode(image, "JPEG", progressive=progressive)
    if progressive or lacking > 2:
        with pytest.raises(BrokenPhoto):
            decode(data[:-lacking], SIZE)
    else:
        assert np.array_equal(decode(data[:-lacking], SIZE), decode(data, SIZE))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "TIFF"])
def test_another_process_gives_the_same_pixels(kind: str) -> None:
    rng = np.random.default_rng(0)
    data = encode(Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8)), kind)
    assert not header.read(data).light(SIZE) and header.read(data).side == 90
    assert np.array_equal(decode(data, SIZE), decode_here(data, SIZE, header.read(data)))


def test_an_ordinary_jpeg_needs_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.inference.photo.pool.shared", None)
    for progressive in (False, True):
        assert decode(encode(Image.new("RGB", (4000, 3000)), "JPEG", progressive=progressive), SIZE).max() == 0


PHOTO = encode(Image.new("RGB", (64, 48), (200, 100, 50)), "PNG")


def ask(decoders: pool.Pool, data: bytes = PHOTO, wait: float = 60) -> np.ndarray:
    return decoders.decode(data, SIZE, 10**8, header.read(data), time.monotonic() + wait)


def test_a_decoder_that_dies_is_replaced() -> None:
    decoders = pool.Pool(1, 100 * MIB)
    first = ask(decoders)
    (decoder,) = decoders._idle
    os.kill(decoder._process.pid, signal.SIGKILL)
    decoder._process.wait()
    assert np.array_equal(ask(decoders), first)
    assert decoders._idle != [decoder]
    decoders.close()


@pytest.mark.parametrize(
    ("hang", "wait", "error"),
    [
        ("while True: pass", 30, PhotoTooCostly),
        ("import time; time.sleep(60)", 1.5, DecodersBusy),
        ("import os; os.abort()", 30, BrokenPhoto),
    ],
)
def test_a_decoder_that_does_not_answer_is_ended(
    hang: str, wait: float, error: type[PhotoError], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever a decoder does, its photo has an answer within seconds, and the next photo another decoder."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nif 'serving.inference.photo.decoder' in sys.orig_argv:\n"
        f"    from PIL import ImageFile\n    def load(self):\n        {hang}\n    ImageFile.ImageFile.load = load\n"
    )
    decoders = pool.Pool(1, 100 * MIB)
    with monkeypatch.context() as context:
        context.setattr("serving.inference.photo.protocol.Order.wall_seconds", wait)
        context.setattr("serving.inference.photo.header.Header.seconds", lambda *_: -0.3)  # so one second of CPU time
        context.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(error):
            ask(decoders)
    assert not decoders._idle
    assert ask(decoders).shape == (SIZE, SIZE, 3)
    decoders.close()


def test_photos_wait_for_memory_and_for_a_decoder() -> None:
    need = header.read(PHOTO).memory(SIZE) + 3 * len(PHOTO)
    decoders = pool.Pool(2, 2 * need)
    soon = time.monotonic() + 60
    with decoders.reserve(need + 1, soon):
        with pytest.raises(DecodersBusy, match="memory"):
            ask(decoders, wait=0.05)
        waiting = threading.Thread(target=ask, args=[decoders])
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive() and decoders._free == 2 * need
    with decoders.reserve(0, soon), decoders.reserve(0, soon), pytest.raises(DecodersBusy, match="too many"):
        ask(decoders, wait=0.05)
    with pytest.raises(DecodersBusy):
        ask(decoders, wait=-1)  # though a decoder is free
    with pytest.raises(PhotoTooCostly, match="MiB"):
        ask(pool.Pool(1, need - 1))
    decoders.close()


def test_decoders_end_with_the_process_that_started_them() -> None:
    code = (
        "import io, os; from PIL import Image; from serving.inference.photo import decode, pool\n"
        "file = io.BytesIO(); Image.new('RGB', (64, 48)).save(file, 'PNG'); decode.decode(file.getvalue(), 64)\n"
        "(of_all,) = pool._pools.values(); print(of_all._idle[0]._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    command = Path(f"/proc/{done.stdout.strip()}/cmdline")
    wait_until(lambda: not command.exists() or b"decoder" not in command.read_bytes())


def test_a_forked_process_has_decoders_of_its_own() -> None:
    decode(PHOTO, SIZE)
    child = os.fork()
    if not child:
        os._exit(bool(pool._pools))
    assert os.waitpid(child, 0)[1] == 0 and pool._pools


def test_a_decoder_sees_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "not for decoders")
    decoders = pool.Pool(1, 100 * MIB)
    ask(decoders)
    (decoder,) = decoders._idle
    assert b"not for decoders" not in Path(f"/proc/{decoder._process.pid}/environ").read_bytes()
    decoders.close()


def test_every_format_is_read_with_its_own_plugin_alone() -> None:
    """A type that nobody sniffs is none of Pillow's forty."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, "TGA")
    with pytest.raises(PhotoError):
        decode(buffer.getvalue(), SIZE)
