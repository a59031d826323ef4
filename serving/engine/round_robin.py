"""A queue that is fair to requests of any size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class RoundRobin(Generic[T]):
    """A queue of which every request gives one item in turn, so that a large one does not hold up a small one.

    Its owner has the lock.
    """

    def __init__(self) -> None:
        self._requests: deque[deque[T]] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, request: Iterable[T], *, first: bool = False) -> None:
        """Append a request's items, or put them before all others."""
        items = deque(request)
        if items:
            (self._requests.appendleft if first else self._requests.append)(items)
            self._count += len(items)

    def take(self) -> T:
        """The next item; its request goes to the end of the line with what it has left."""
        request = self._requests.popleft()
        item = request.popleft()
        self._count -= 1
        if request:
            self._requests.append(request)
        return item

    def remove(self, which: Callable[[T], bool]) -> None:
        left = (deque(item for item in request if not which(item)) for request in self._requests)
        self._requests = deque(request for request in left if request)
        self._count = sum(map(len, self._requests))
