"""The messages between a process and its decoders."""

from __future__ import annotations

import math
import signal
import socket
import struct
from typing import BinaryIO, NamedTuple

from serving.inference.photo import errors
from serving.inference.photo.errors import BrokenPhoto, PhotoError

OUT_OF_TIME = signal.SIGXCPU
_ORDER = struct.Struct(">IQQdQ")  # the fields of Order, and the size of the photo that follows, in bytes
_ANSWER = struct.Struct(">?I")  # whether pixels or an error follow, and their size in bytes
_ERROR_BYTES = 4000


class Order(NamedTuple):
    """Decode one photo to size x size, within so much memory (bytes) and an expected time (seconds)."""

    size: int
    max_pixels: int
    memory: int
    seconds: float

    @property
    def cpu_seconds(self) -> int:
        """The limit on CPU time: several times the expected time, for slow machines."""
        return 2 + math.ceil(5 * self.seconds)

    @property
    def wall_seconds(self) -> float:
        """The limit on elapsed time, for a decoder that sleeps or a machine that is overloaded."""
        return 5.0 + 5 * self.cpu_seconds


def send_order(line: socket.socket, order: Order, data: bytes) -> None:
    """Ask for a photo's pixels."""
    line.sendall(_ORDER.pack(*order, len(data)))
    line.sendall(data)


def receive_order(line: BinaryIO) -> tuple[Order, bytes]:
    """The next photo. Raises ConnectionError when there will be none."""
    *order, length = _ORDER.unpack(_receive(line, _ORDER.size))
    return Order(*order), _receive(line, length)


def send_answer(line: socket.socket, answer: bytes | PhotoError) -> None:
    """Answer with pixels, or with what is wrong."""
    if isinstance(answer, PhotoError):
        text = f"{type(answer).__name__} {answer}".encode(errors="replace")[:_ERROR_BYTES]
        line.sendall(_ANSWER.pack(False, len(text)) + text)
    else:
        line.sendall(_ANSWER.pack(True, len(answer)) + answer)


def receive_answer(line: BinaryIO, order: Order) -> bytes:
    """The pixels. Raises the PhotoError that was sent instead, ConnectionError when the line breaks.

    Nothing is believed: whoever found a hole in a decoder may say anything.
    """
    good, length = _ANSWER.unpack(_receive(line, _ANSWER.size))
    if length != 3 * order.size**2 if good else length > _ERROR_BYTES:
        raise ConnectionError("no answer of a decoder")
    answer = _receive(line, length)
    if good:
        return answer
    name, _, text = answer.decode(errors="replace").partition(" ")
    kind = getattr(errors, name, None)
    raise (kind if isinstance(kind, type) and issubclass(kind, PhotoError) else BrokenPhoto)(text)


def _receive(line: BinaryIO, count: int) -> bytes:
    """So many bytes. Raises ConnectionError where they end before, TimeoutError."""
    received = line.read(count)
    if len(received) < count:
        raise ConnectionError("the line was closed")
    return received
