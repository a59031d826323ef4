"""A few processes that decode photos, each of which can be ended: the last line against what no header tells.

A decoder may take the memory and the time that follow from the photo's declared size, no more; one that dies is
replaced at the next photo. Decoders start when first needed, and afresh: a fork of a process that has threads would
hang. They see none of this process's secrets, return resized pixels and nothing else, and end when their socket closes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.inference.photo import protocol
from serving.inference.photo.errors import BrokenPhoto, DecodersBusy, PhotoTooCostly
from serving.inference.photo.header import MIB, Header

MEMORY = 768 * MIB
_ROOT = Path(__file__).resolve().parents[3]
_INHERITED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG")
# One heap and no threads that reserve more, for address space counts. Up to 32 MiB of freed memory is kept for the next
# photo: pages that the system clears anew cost up to 9 ms a photo. Larger blocks go back at once.
_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * MIB),
    "MALLOC_TRIM_THRESHOLD_": str(32 * MIB),
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


class Pool:
    """`processes` that decode photos, in at most `memory` bytes together."""

    def __init__(self, processes: int, memory: int) -> None:
        self._memory = self._free = memory
        self._places = processes
        self._idle: list[_Decoder] = []
        self._next = threading.Lock()  # held by the photo whose turn it is, so that a large one does not wait for ever
        self._change = threading.Condition()

    def decode(self, data: bytes, size: int, max_pixels: int, header: Header, deadline: float) -> NDArray[np.uint8]:
        """The pixels of a photo, uint8 `[size, size, 3]`. Raises PhotoError, DecodersBusy after the deadline."""
        need = header.memory(size) + 3 * len(data)  # a decoder holds the file up to three times
        if need > self._memory:
            raise PhotoTooCostly(f"decoding the photo takes {need // MIB:,} MiB; {self._memory // MIB:,} are allowed")
        with self.reserve(need, deadline):
            decoder = self._take()
            try:
                pixels = decoder.ask(data, protocol.Order(size, max_pixels, need, header.seconds(size)))
            finally:
                if decoder.alive():
                    self._idle.append(decoder)
        return np.frombuffer(pixels, np.uint8).reshape(size, size, 3)

    def close(self) -> None:
        """End the processes."""
        while self._idle:
            self._idle.pop().end()

    @contextlib.contextmanager
    def reserve(self, need: int, deadline: float) -> Iterator[None]:
        """Hold one of the processes and so many bytes of memory. Raises DecodersBusy after the deadline."""

        def left() -> float:
            return min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)

        if not left() or not self._next.acquire(timeout=left()):  # after the deadline not even a free one is taken
            raise DecodersBusy("too many photos are being decoded; try again")
        try:
            with self._change:
                if not self._change.wait_for(lambda: self._places > 0 and self._free >= need, left()):
                    reason = "leave no memory for this one" if self._places > 0 else "are too many"
                    raise DecodersBusy(f"the photos being decoded {reason}; try again")
                self._places -= 1
                self._free -= need
        finally:
            self._next.release()
        try:
            yield
        finally:
            with self._change:
                self._places += 1
                self._free += need
                self._change.notify_all()

    def _take(self) -> _Decoder:
        """A process that waits, or a new one."""
        with contextlib.suppress(IndexError):
            while True:
                decoder = self._idle.pop()
                if decoder.alive():
                    return decoder
        return _Decoder()


class _Decoder:
    """One process and the line to it."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        self._answers = self._line.makefile("rb")
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | _ENVIRONMENT
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving.inference.photo.decoder", str(theirs.fileno())],
                cwd=_ROOT, env=environment, pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, data: bytes, order: protocol.Order) -> bytes:
        """The pixels, size x size x 3 bytes. Raises PhotoError; a process that does not answer is ended."""
        self._line.settimeout(order.wall_seconds)
        try:
            protocol.send_order(self._line, order, data)
            return protocol.receive_answer(self._answers, order)
        except TimeoutError:
            self.end()
            raise DecodersBusy(f"the photo was not decoded in {order.wall_seconds:.0f} s; try again") from None
        except OSError:
            self.end()
            if self._process.returncode == -protocol.OUT_OF_TIME:
                raise PhotoTooCostly(f"decoding the photo takes more than {order.cpu_seconds} s") from None
            raise BrokenPhoto("the photo ended the program that decodes it: it is damaged") from None

    def end(self) -> None:
        """End it, whatever it does."""
        self._answers.close()
        self._line.close()
        self._process.kill()
        self._process.wait()


_pools: dict[tuple[int, int], Pool] = {}


def shared(processes: int, memory: int) -> Pool:
    """This process's pool of so many decoders with so much memory."""
    key = processes, memory
    return _pools.get(key) or _pools.setdefault(key, Pool(*key))  # of two threads, the second gets the first one's


os.register_at_fork(after_in_child=_pools.clear)  # the decoders answer the process that started them
