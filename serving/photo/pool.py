"""A few processes that decode photos, each of which can be ended: the last line against what no header tells.

A photo's process may take the memory and the time that follow from the photo's declared size, no more; one that dies
is replaced at the next photo. They are started when they are first needed, afresh: forking a process that has threads
would hang. They see none of this process's secrets, and give back nothing but the resized pixels.
"""

from __future__ import annotations

import atexit
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

from serving.photo import protocol
from serving.photo.errors import BrokenPhoto, DecodersBusy, PhotoTooCostly
from serving.photo.header import MIB, Header

MEMORY = 768 * MIB
_ROOT = Path(__file__).resolve().parents[2]
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
        self._slots = threading.BoundedSemaphore(processes)
        self._idle: list[_Decoder] = []
        self._first = threading.Lock()  # held by the photo that is the next to get memory, so that none waits for ever
        self._change = threading.Condition()

    def decode(self, data: bytes, size: int, max_pixels: int, header: Header, deadline: float) -> NDArray[np.uint8]:
        """The pixels of a photo, uint8 `[size, size, 3]`. Raises PhotoError, DecodersBusy after the deadline."""
        need = header.memory(size) + 3 * len(data)  # the decoders hold the file up to three times
        if need > self._memory:
            raise PhotoTooCostly(f"decoding the photo takes {need // MIB:,} MiB; {self._memory // MIB:,} are allowed")
        with self._slot(deadline), self._room(need, deadline):
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

    def _take(self) -> _Decoder:
        """A process that waits, or a new one."""
        with contextlib.suppress(IndexError):
            while True:
                decoder = self._idle.pop()
                if decoder.alive():
                    return decoder
        return _Decoder()

    @contextlib.contextmanager
    def _slot(self, deadline: float) -> Iterator[None]:
        left = _left(deadline)
        if not left or not self._slots.acquire(timeout=left):  # after the deadline not even a free one is taken
            raise DecodersBusy("too many photos are being decoded; try again")
        try:
            yield
        finally:
            self._slots.release()

    @contextlib.contextmanager
    def _room(self, need: int, deadline: float) -> Iterator[None]:
        """Hold so many bytes of the memory for all."""
        if not self._first.acquire(timeout=_left(deadline)):
            raise DecodersBusy("the photos being decoded leave no memory for this one; try again")
        try:
            with self._change:
                if not self._change.wait_for(lambda: self._free >= need, _left(deadline)):
                    raise DecodersBusy("the photos being decoded leave no memory for this one; try again")
                self._free -= need
        finally:
            self._first.release()
        try:
            yield
        finally:
            with self._change:
                self._free += need
                self._change.notify_all()


class _Decoder:
    """One process and the line to it."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | _ENVIRONMENT
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving.photo.decoder", str(theirs.fileno())],
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
            return protocol.receive_answer(self._line, order)
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
        self._line.close()
        self._process.kill()
        self._process.wait()


def _left(deadline: float) -> float:
    return min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)


_pools: dict[tuple[int, int], Pool] = {}
_making = threading.Lock()


def shared(processes: int, memory: int) -> Pool:
    """This process's pool of so many decoders with so much memory."""
    with _making:
        if (processes, memory) not in _pools:
            _pools[processes, memory] = Pool(processes, memory)
        return _pools[processes, memory]


def _forget() -> None:
    """In a forked process: the decoders answer the one that started them."""
    global _making
    _making = threading.Lock()
    _pools.clear()


@atexit.register
def _close() -> None:
    for pool in _pools.values():
        pool.close()


os.register_at_fork(after_in_child=_forget)
