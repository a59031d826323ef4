"""Frames of a video as photos: `clip.mp4#t=12.5` is the frame at 12.5 seconds (W3C Media Fragments)."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

from serving.batch.photos import Photo, ReadError, extra, open_file

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts")
FRAGMENT = "#t="


def is_frame(location: str) -> bool:
    """Whether a location is a time in a video."""
    return location.rpartition(FRAGMENT)[0].lower().endswith(VIDEOS)


def frames(name: str, every: float) -> Iterator[Photo]:
    """A photo for each `every` seconds. Raises ReadError where the file is no video, or one without a length."""
    with _opened(name) as video:
        if not video.streams.video or not video.duration:
            raise ReadError("unreadable", "the file has no video, or a video without a length")
        count = math.ceil(video.duration / 1e6 / every)  # the duration is in microseconds
    for number in range(count):
        place = f"{name}{FRAGMENT}{round(number * every, 3)}"
        yield Photo(place, place, size=0)


def read_frame(location: str) -> bytes:
    """The first frame at or after a time, or the last one, upright, as a BMP: nothing is lost. Raises ReadError."""
    name, _, time = location.rpartition(FRAGMENT)
    with _opened(name) as video:
        stream = video.streams.video[0]
        start = (stream.start_time or 0) * stream.time_base
        wanted = start + Fraction(time)
        video.seek(int(wanted / stream.time_base), stream=stream)
        found = None
        for found in video.decode(stream):
            if found.pts is None or found.pts * stream.time_base >= wanted:
                break
        if found is None:
            raise ReadError("unreadable", f"no frame at {time} s")
        buffer = io.BytesIO()
        found.to_image().rotate(found.rotation, expand=True).save(buffer, "BMP")
        return buffer.getvalue()


@contextmanager
def _opened(name: str) -> Iterator[Any]:
    """A video, closed afterwards. Raises ReadError, for what is damaged too."""
    av = extra("av")
    try:
        with open_file(name) as file, av.open(file) as video:
            yield video
    except (av.error.FFmpegError, OSError) as error:
        raise ReadError("unreadable", f"not a video that can be decoded: {error}") from None
