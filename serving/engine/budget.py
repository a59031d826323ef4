"""Admission control: what the work in flight may take of something, together."""

from __future__ import annotations

import threading


class Budget:
    """An amount (photos, bytes, requests) that is taken and given back, by any thread."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._lock = threading.Lock()

    @property
    def free(self) -> int:
        """What is left; below zero where more was taken than there is."""
        return self._free

    def take(self, amount: int, *, beyond: bool = False) -> bool:
        """Take an amount if it is free, or `beyond` what is; whoever got it gives it back."""
        with self._lock:
            if amount > self._free and not beyond:
                return False
            self._free -= amount
            return True

    def give(self, amount: int) -> None:
        with self._lock:
            self._free += amount
