"""An event loop: what to do when a socket is ready, and what threads ask to have done."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from functools import partial

from gunicorn.workers.gthread import PollableMethodQueue  # type: ignore[import-untyped]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Loop:
    """One thread calls `step` again and again; only `call` is for others. `sweep` is done every so many seconds."""

    def __init__(self, seconds: float, sweep: Callable[[], None]) -> None:
        self._seconds, self._sweep, self._swept = seconds, sweep, time.monotonic()
        self._poller = selectors.DefaultSelector()
        self._calls = PollableMethodQueue()
        self._calls.init()
        self._poller.register(self._calls.fileno(), READ, partial(self._calls.run_callbacks, None))

    def watch(self, sock: socket.socket, event: int, act: Callable[[], None]) -> None:
        """Do something whenever a socket is ready."""
        self._poller.register(sock, event, act)

    def unwatch(self, sock: socket.socket) -> None:
        """Do it no more, if it was done."""
        if sock in self._poller.get_map():
            self._poller.unregister(sock)

    def call(self, act: Callable[[], None]) -> None:
        """Do something once, soon."""
        self._calls.defer(act)

    def step(self) -> None:
        """Wait for something to do, no longer than until the next sweep, and do it."""
        for key, _ in self._poller.select(self._seconds):
            key.data()
        if time.monotonic() - self._swept > self._seconds:
            self._swept = time.monotonic()
            self._sweep()

    def close(self) -> None:
        """Let go of everything."""
        self._poller.close()
        self._calls.close()
