"""Frames of a video as photos: `clip.mp4#t=12.5` is the frame at 12.5 seconds (W3C Media Fragments).

Processes of their own decode them (`frames`), within limits: one that takes too long is ended, one that dies is
replaced, and a video that did so several times is given up.
"""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import Pipe
from typing import BinaryIO

from serving.batch import frames as child
from serving.inference.photo.cores import usable_cores
from serving.inference.photo.header import MAX_PIXELS, MIB
from serving.stores import UNAVAILABLE, Photo, ReadError, extra, open_file, reading

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts")
FRAGMENT = "#t="
MOST_FRAMES = 100_000  # of a video: a day, second by second
SECONDS = 60.0  # to find one frame
STRIKES = 3  # frames that end their process, or take too long, until the video is given up
MEMORY, PER_PIXEL = 512 * MIB, 64  # bytes of a process, and beside them of the frames that a codec may look back on
_INHERITED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG")


def is_frame(location: str) -> bool:
    return location.rpartition(FRAGMENT)[0].lower().endswith(VIDEOS)


def frames(name: str, every: float) -> Iterator[Photo]:
    """A photo for each `every` seconds; of what is no video, has no length or too many frames one, without a time.

    Raises ReadError where a store is unavailable.
    """
    try:
        count = math.ceil(float(_ask(name, None, MAX_PIXELS)) / every)
    except ReadError as error:
        if error.kind == UNAVAILABLE:
            raise
        count = 0
    if not 0 < count <= MOST_FRAMES:
        yield Photo(name, f"{name}{FRAGMENT}")
        return
    for number in range(count):
        place = f"{name}{FRAGMENT}{round(number * every, 3)}"
        yield Photo(place, place, size=0)


def read_frame(location: str, pixels: int) -> bytes:
    """The first frame at or after a time, or the last one, upright, as a BMP: nothing is lost. Raises ReadError.

    A video whose frames have more `pixels` is refused before any is decoded.
    """
    name, _, moment = location.rpartition(FRAGMENT)
    found = _ask(name, moment or None, pixels)
    if not moment:
        raise ReadError("unreadable", f"a video of {float(found):.0f} s: at most {MOST_FRAMES:,} frames, see --every")
    return found


_idle: list[_Decoder] = []
_places = threading.Semaphore(usable_cores())
_strikes: Counter[str] = Counter()  # of videos, by name


def _ask(name: str, moment: str | None, pixels: int) -> bytes:
    """The answer of a process. Raises ReadError."""
    extra("av")
    with open_file(name) as file, _places, reading():
        if _strikes[name] >= STRIKES:
            raise ReadError("unreadable", f"the video is given up: {STRIKES} frames ended badly or took too long")
        decoder = _take()
        try:
            answer = decoder.ask(file, moment, pixels)
        except BaseException as error:
            decoder.end()
            _strikes[name] += isinstance(error, ReadError)
            raise
        _idle.append(decoder)
    if not answer.startswith(child.DONE):
        words = answer[1:].decode(errors="replace")
        raise ReadError("unreadable", f"no video that can be decoded in frames of {pixels:,} pixels or less: {words}")
    return answer[1:]


def _take() -> _Decoder:
    """A process that waits, or a new one."""
    with suppress(IndexError):
        while True:
            if (decoder := _idle.pop()).alive():
                return decoder
    return _Decoder()


class _Decoder:
    """One process and the line to it."""

    def __init__(self) -> None:
        self._line, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", child.__file__, str(theirs.fileno())],
                env={name: os.environ[name] for name in _INHERITED if name in os.environ},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, file: BinaryIO, moment: str | None, pixels: int) -> bytes:
        """Its answer, after it got the bytes it wanted. Raises ReadError for none, and what reading them raises."""
        order = {"size": file.seek(0, os.SEEK_END), "pixels": pixels, "time": moment}
        deadline = time.monotonic() + SECONDS
        try:
            self._line.send_bytes(json.dumps(order | {"memory": MEMORY + PER_PIXEL * pixels}).encode())
            while self._line.poll(max(0.0, deadline - time.monotonic())):
                answer = self._line.recv_bytes(MIB + 4 * pixels)
                if not answer.startswith(child.READ):
                    return answer
                offset, size = child.PLACE.unpack(answer[1:])
                file.seek(offset)
                self._line.send_bytes(file.read(min(size, MIB)))
        except (EOFError, ConnectionError, struct.error, OverflowError):  # whoever found a hole may say anything
            raise ReadError("unreadable", "a frame of the video ended the program that decodes it") from None
        raise ReadError("unreadable", f"a frame of the video was not found in {SECONDS:.0f} s")

    def end(self) -> None:
        self._line.close()
        self._process.kill()
        self._process.wait()
