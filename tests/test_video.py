"""Videos: frames are rows, and a hostile file costs rows, not the run."""

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import psutil
import pytest
from obstore.store import MemoryStore
from PIL import Image

from serving import stores
from serving.batch import video as videos
from serving.stores import ReadError
from tests.support.jobs import score
from tests.support.onnx_models import write_pair

PIXELS = 8_000_000


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODEL_PATH", str(write_pair(tmp_path / "artifacts", t_clean=0.75).model))
    return tmp_path / "out.csv"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Three seconds, brighter from second to second: 0, 100 and 200 of 255."""
    path = tmp_path / "gate.mp4"
    with av.open(path, "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for number in range(30):
            pixels = np.full((48, 64, 3), number // 10 * 100, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    return path


@pytest.fixture(autouse=True)
def own_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(videos, "_idle", [])
    monkeypatch.setattr(videos, "_strikes", type(videos._strikes)())
    yield
    for decoder in videos._idle:
        decoder.end()


def errors(out: Path) -> list[str]:
    return pd.read_csv(out, keep_default_na=False)["error"].tolist()


def of_pictures(path: Path, declared: tuple[int, int], sizes: list[int]) -> Path:
    """A picture a second, as PNGs that are that many pixels high and wide."""
    with av.open(path, "w") as file:
        stream = file.add_stream("png", rate=1)
        (stream.width, stream.height), stream.pix_fmt = declared, "rgb24"
        for number, size in enumerate(sizes):
            buffer = io.BytesIO()
            Image.new("RGB", (size, size)).save(buffer, "PNG")
            packet = av.Packet(buffer.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1)
            packet.is_keyframe = True
            file.mux(packet)
    return path


@pytest.mark.parametrize("every, times", [("1s", "0.0 1.0 2.0"), ("0.5", "0.0 0.5 1.0 1.5 2.0 2.5"), ("9s", "0.0")])
def test_frames_of_a_video_are_rows(video: Path, out: Path, every: str, times: str) -> None:
    assert score(video, out, "--every", every) == 0
    rows = pd.read_csv(out)
    found = {path.rpartition("#t=")[2]: p for path, p in zip(rows["path"], rows["p_clean"], strict=True)}
    assert found == {time: pytest.approx(int(float(time)) * 100 / 255, abs=0.02) for time in times.split()}
    assert score(video, out.with_name("job"), "--every", every, "--shard-size", "2") == 0


@pytest.mark.parametrize("damage", [slice(0, 500), slice(100, None), slice(0, 0)])
def test_a_broken_video_has_a_row(video: Path, out: Path, damage: slice) -> None:
    video.write_bytes(video.read_bytes()[damage])
    assert score(video, out) == 1
    assert [error.partition(":")[0] for error in errors(out)] == ["unreadable"]


def test_what_has_no_frames_has_a_row_that_says_so(video: Path, out: Path, tmp_path: Path) -> None:
    """Sound alone; playlists, which FFmpeg would follow to other files; one of 68 years, by its header."""
    with av.open(tmp_path / "sound.mp4", "w") as file:
        sound = file.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        file.mux(sound.encode(frame))
        file.mux(sound.encode())
    (tmp_path / "hls.mp4").write_text(f"#EXTM3U\n#EXTINF:10,\nfile://{video}\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {video}\n")
    endless = bytearray(video.read_bytes())
    for box, place in (b"mvhd", 16), (b"mdhd", 16), (b"tkhd", 24):  # a time base of a second, where there is one
        at = endless.index(box) + place
        endless[at : at + 8] = struct.pack(">II", 1, 0x7FFFFFFF)
    (tmp_path / "endless.mp4").write_bytes(endless)
    for name, words in {"sound": "no video", "hls": "no video that can be decoded", "list": "no video that"}.items():
        assert score(tmp_path / f"{name}.mp4", out) == 1
        assert len(errors(out)) == 1 and words in errors(out)[0], errors(out)
    assert score(tmp_path / "endless.mp4", out, "--every", "0.001s") == 1
    assert len(errors(out)) == 1 and "at most 100,000 frames" in errors(out)[0]


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(tmp_path: Path, out: Path) -> None:
    """10,000 pixels a side are 290 KB as a PNG and 300 MB in memory; one comes in the midst of small ones."""
    bomb = of_pictures(tmp_path / "bomb.mov", (10_000, 10_000), [10_000])
    grows = of_pictures(tmp_path / "grows.mov", (64, 64), [64, 10_000, 64])
    assert score(bomb, out) == 1 and errors(out)[0].startswith("unreadable")
    assert score(grows, out) == 1 and [bool(error) for error in errors(out)] == [False, True, False]
    children = (decoder._process.pid for decoder in videos._idle)
    assert all(psutil.Process(child).memory_info().rss < 200 * 2**20 for child in children)


@pytest.mark.parametrize("limit, value", [("SECONDS", 0.0), ("MEMORY", 1)])
def test_a_video_over_a_limit_is_given_up(
    video: Path, out: Path, limit: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next one is decoded as ever, in another process."""
    with monkeypatch.context() as context:
        context.setattr(videos, limit, value)
        context.setattr(videos, "PER_PIXEL", 0)
        found = []
        for _ in range(videos.STRIKES + 1):
            with pytest.raises(ReadError) as error:
                videos.read_frame(f"{video}#t=1", PIXELS)
            found.append(str(error.value))
    assert limit == "MEMORY" or ("given up" in found[-1] and not any("given up" in words for words in found[:-1]))
    other = video.rename(video.with_name("other.mp4"))
    assert score(other, out) == 0


def test_a_process_that_is_killed_is_replaced(video: Path) -> None:
    before = videos.read_frame(f"{video}#t=1", PIXELS)
    videos._idle[0]._process.kill()
    videos._idle[0]._process.wait()
    assert videos.read_frame(f"{video}#t=1", PIXELS) == before


def test_a_video_in_a_store_is_read_by_ranges(out: Path, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    store.put("videos/gate.mp4", video.read_bytes())
    monkeypatch.setattr(stores, "store", lambda _: store)
    for source in "s3://bucket/videos/gate.mp4", "s3://bucket/videos/":
        assert score(source, out) == 0
        assert pd.read_csv(out)["p_clean"].tolist() == pytest.approx([0, 100 / 255, 200 / 255], abs=0.03)
