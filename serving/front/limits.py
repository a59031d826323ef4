"""How many clients there may be, and how long each may take for what it does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from serving.front.connection import Connection, State

HEAD_SECONDS = 5.0  # for a head, from its first byte, and for the first byte of a new connection
MIN_RATE = 8 * 1024  # bytes a second of a body or an answer, over each REQUEST_SECONDS
STALL_SECONDS = 2.0  # where others wait for room, a body or an answer that does not move for so long is ended
LINGER_SECONDS = 2.0  # for a client to close after us, and for the last request on a connection of a stopping server


class Limits(NamedTuple):
    """What the settings say: seconds and connections."""

    seconds: float  # REQUEST_SECONDS
    idle: float  # between two requests
    connections: int
    per_address: int


class Overdue(Enum):
    """Why a client is cut off; the label of a metric."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    ROOM = "room"
    CONNECTIONS = "connections"
    LINGER = "linger"


def overdue(connection: Connection, limits: Limits, *, short: bool, stopping: float | None) -> Overdue | None:
    """Why a connection is to be cut off now, if it is. `short`: others wait for room; `stopping`: since when the
    server stops."""
    now = time.monotonic()
    waited, still = now - connection.since, now - connection.progress
    match connection.state:
        case State.HEAD if connection.received:
            return Overdue.HEAD if waited > min(HEAD_SECONDS, limits.seconds) else None
        case State.HEAD:
            idle = limits.idle if connection.requests else min(HEAD_SECONDS, limits.seconds)
            last = stopping is not None and now - max(connection.progress, stopping) > LINGER_SECONDS
            return Overdue.IDLE if last or still > idle else None
        case State.LINGER:
            return Overdue.LINGER if waited > LINGER_SECONDS else None
        case State.BODY | State.ANSWER if connection.paused:
            return Overdue.ROOM if still > limits.seconds else None
        case State.BODY | State.ANSWER if short and still > STALL_SECONDS:
            return Overdue.ROOM
        case State.BODY | State.ANSWER if waited > limits.seconds:
            if connection.moved < MIN_RATE * waited:
                return Overdue.BODY if connection.state is State.BODY else Overdue.ANSWER
            connection.restart()
    return None


class Connections:
    """All that are open. One too many takes the place of the one that has not moved for the longest time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: set[Connection] = set()
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._open))

    def add(self, connection: Connection) -> Connection | None:
        """Add one; the one to close in its place, if there are too many of its address, or of all."""
        excess = None
        if self._addresses[connection.address] >= self._limits.per_address:
            excess = self.stalest(connection.address) or connection
        elif len(self._open) >= self._limits.connections:
            excess = self.stalest() or connection
        self._open.add(connection)
        self._addresses[connection.address] += 1
        return excess

    def remove(self, connection: Connection) -> None:
        """Forget one."""
        self._open.remove(connection)
        self._addresses[connection.address] -= 1
        if not self._addresses[connection.address]:
            del self._addresses[connection.address]

    def stalest(self, address: str | None = None) -> Connection | None:
        """Of those that wait for their client, the one that has not moved for the longest time."""
        waiting = (c for c in self._open if c.state is not State.WORK and address in (None, c.address))
        return min(waiting, key=lambda c: c.progress, default=None)

    def stalled_body(self) -> Connection | None:
        """The body that has not moved for the longest time, if that is too long where others need its room."""
        bodies = (c for c in self._open if c.state is State.BODY and not c.paused)
        stalest = min(bodies, key=lambda c: c.progress, default=None)
        return stalest if stalest and time.monotonic() - stalest.progress > STALL_SECONDS else None
