"""`python frames.py FD`: finds frames in videos whose bytes are asked for over a socket; serving.batch.video starts it.

It imports nothing of ours, opens no file and knows no secret, so that a hole in a decoder gives nothing away. Messages:
an order is JSON, `READ` asks for bytes (offset and size), any other one is the answer: `DONE` and a picture or a number
of seconds, or `WRONG` and words.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import sys
from fractions import Fraction
from multiprocessing.connection import Connection
from typing import Any

READ, DONE, WRONG = b"r", b"=", b"!"
PLACE = struct.Struct(">QQ")
_AHEAD = 256 * 1024  # bytes that are asked for at once
# Not those that name other files to open, as playlists do.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo"


class _Remote:
    """The video, whose bytes the other end of the line has."""

    def __init__(self, line: Connection, size: int) -> None:
        self._line, self._size, self._place = line, size, 0

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = max(0, offset + (0, self._place, self._size)[whence])
        return self._place

    def read(self, size: int) -> bytes:
        if self._place >= self._size:  # an index may lead anywhere
            return b""
        self._line.send_bytes(READ + PLACE.pack(self._place, size))
        found = self._line.recv_bytes()
        self._place += len(found)
        return found


def _answer(line: Connection, size: int, pixels: int, time: str | None) -> bytes:
    """The video's length in seconds, or the first frame at or after a time, or the last one, upright, as a BMP."""
    import av  # here: the other end of the line imports this module too

    limits = {"max_pixels": str(pixels)}
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "", **limits}
    video: Any
    with av.open(_Remote(line, size), buffer_size=_AHEAD, options=options) as video:
        if not video.streams.video:
            raise ValueError("the file has no video")
        stream = video.streams.video[0]
        if stream.width * stream.height > pixels:
            raise ValueError(f"frames of {stream.width} x {stream.height} pixels; at most {pixels:,} are accepted")
        if time is None:
            if not video.duration or video.duration < 0:
                raise ValueError("the video has no length")
            return str(video.duration / av.time_base).encode()
        stream.codec_context.options = limits  # a stream may grow on its way
        stream.codec_context.thread_count = 1
        wanted = (stream.start_time or 0) * stream.time_base + Fraction(time)
        video.seek(int(wanted / stream.time_base), stream=stream)
        found = None
        for found in video.decode(stream):
            if found.pts is None or found.pts * stream.time_base >= wanted:
                break
        if found is None:
            raise ValueError(f"no frame at {time} s")
        buffer = io.BytesIO()
        found.to_image().rotate(found.rotation, expand=True).save(buffer, "BMP")
        return buffer.getvalue()


def main() -> None:
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    line = Connection(int(sys.argv[1]))
    while True:
        try:
            order = json.loads(line.recv_bytes())
        except EOFError:
            return
        resource.setrlimit(resource.RLIMIT_AS, (order.pop("memory"), resource.RLIM_INFINITY))
        try:
            answer = DONE + _answer(line, **order)
        except MemoryError:
            answer = WRONG + b"decoding takes more memory than a video of this size needs"
        except Exception as error:  # of FFmpeg's, of ours above, or whatever a damaged file leads to
            answer = WRONG + str(error).encode(errors="replace")[:1000]
        line.send_bytes(answer)


if __name__ == "__main__":
    main()
