"""Giving memory back that large photos took."""

from __future__ import annotations

import ctypes
import time

SECONDS = 10.0


class Trimmer:
    """Has glibc return to the system what was freed, now and then.

    By itself it keeps freed blocks of up to 32 MiB in a heap for each of several threads: after some thousand hostile
    photos, two workers held on to 740 MiB instead of 200. Other C libraries have no such function, nor such heaps.
    """

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._next = time.monotonic() + SECONDS

    def maybe(self) -> None:
        """Call it often: it does something every SECONDS, which takes some milliseconds."""
        if self._trim is not None and time.monotonic() > self._next:
            self._trim(0)
            self._next = time.monotonic() + SECONDS
