"""What a decoding process is asked and what it answers."""

from __future__ import annotations

import math
import signal
import socket
import struct
from dataclasses import dataclass

from serving.photo import errors
from serving.photo.errors import BrokenPhoto, PhotoError

OUT_OF_TIME = signal.SIGXCPU
_ORDER = struct.Struct(">IQQdQ")  # size, max_pixels, memory, seconds, bytes of the photo that follows
_ANSWER = struct.Struct(">?I")  # whether pixels follow or an error, and how many bytes


@dataclass(frozen=True)
class Order:
    """One photo to decode to size x size, and what it may take: bytes of memory, and seconds as they are expected."""

    size: int
    max_pixels: int
    memory: int
    seconds: float

    @property
    def cpu_seconds(self) -> int:
        """The CPU time after which it is ended: several times what this machine would need were it a slow one."""
        return 2 + math.ceil(5 * self.seconds)

    @property
    def wall_seconds(self) -> float:
        """The time after which nobody waits any more, should it sleep or the machine be overloaded."""
        return 5.0 + 5 * self.cpu_seconds


def send_order(line: socket.socket, order: Order, data: bytes) -> None:
    """Ask for a photo's pixels."""
    line.sendall(_ORDER.pack(order.size, order.max_pixels, order.memory, order.seconds, len(data)))
    line.sendall(data)


def receive_order(line: socket.socket) -> tuple[Order, bytes]:
    """The next photo. Raises EOFError when there will be none."""
    try:
        *order, length = _ORDER.unpack(_receive(line, _ORDER.size))
        return Order(*order), bytes(_receive(line, length))
    except ConnectionError as error:
        raise EOFError from error


def send_pixels(line: socket.socket, pixels: bytes) -> None:
    """Answer with pixels."""
    line.sendall(_ANSWER.pack(True, len(pixels)) + pixels)


def send_error(line: socket.socket, error: PhotoError) -> None:
    """Answer with what is wrong."""
    text = f"{type(error).__name__} {error}".encode(errors="replace")[:4000]
    line.sendall(_ANSWER.pack(False, len(text)) + text)


def receive_answer(line: socket.socket, order: Order) -> bytes:
    """The pixels. Raises the PhotoError that was sent instead, ConnectionError when the line breaks.

    Nothing is believed: whoever found a hole in a decoder may say anything.
    """
    good, length = _ANSWER.unpack(_receive(line, _ANSWER.size))
    if length != 3 * order.size**2 if good else length > 4000:
        raise ConnectionError("no answer of a decoder")
    answer = bytes(_receive(line, length))
    if good:
        return answer
    name, _, text = answer.decode(errors="replace").partition(" ")
    kind = getattr(errors, name, BrokenPhoto)
    raise (kind if isinstance(kind, type) and issubclass(kind, PhotoError) else BrokenPhoto)(text)


def _receive(line: socket.socket, count: int) -> bytearray:
    """So many bytes. Raises ConnectionError where they end before, TimeoutError."""
    received = bytearray(count)
    view, at = memoryview(received), 0
    while at < count:
        got = line.recv_into(view[at:])
        if not got:
            raise ConnectionError("the line was closed")
        at += got
    return received
