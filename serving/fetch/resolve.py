"""Names -> addresses, by the system's resolver, whose silent name servers must hold up no other fetch."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

SECONDS = 3.0  # a lookup that takes longer has failed
PATIENCE = 1.0  # a lookup may take so long even where others wait for its place
# A lookup cannot be interrupted: after its caller has left, it keeps its thread until the system's resolver gives up
# (RES_OPTIONS in gunicorn.conf.py). So there are more threads than callers, started as needed.
THREADS_PER_LOOKUP = 8

Resolve = Callable[[str, int], Iterable[str]]


def system_resolve(host: str, port: int) -> list[str]:
    """Every address of a name (or of an address, itself). Raises OSError."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Resolver:
    """Lookups with a deadline, so many at once."""

    def __init__(self, at_once: int, resolve: Resolve = system_resolve) -> None:
        self._resolve = resolve
        self._threads = ThreadPoolExecutor(THREADS_PER_LOOKUP * at_once, "resolve")
        self._lock = threading.Lock()
        self._callers: dict[Future[Iterable[str]], float] = {}  # who waits, since when: oldest first

    def addresses(self, host: str, port: int, seconds: float) -> Iterable[str]:
        """The addresses of a name. Raises OSError, and TimeoutError after `seconds`, SECONDS or `make_room`."""
        sent_away: Future[Iterable[str]] = Future()
        with self._lock:
            self._callers[sent_away] = time.monotonic()
        lookup = self._threads.submit(self._resolve, host, port)
        try:
            done, _ = wait((lookup, sent_away), min(seconds, SECONDS), FIRST_COMPLETED)
            if not done:
                raise TimeoutError
            return done.pop().result()
        finally:
            lookup.cancel()  # one that still waits for a thread must not be made for nobody
            with self._lock:
                self._callers.pop(sent_away, None)

    def make_room(self) -> bool:
        """Send away whoever has waited longest, if that is longer than PATIENCE: names resolve in milliseconds."""
        with self._lock:
            oldest, since = next(iter(self._callers.items()), (None, 0.0))
            if oldest is None or time.monotonic() - since < PATIENCE:
                return False
            del self._callers[oldest]
        oldest.set_exception(TimeoutError())
        return True
