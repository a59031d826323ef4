"""How many clients there may be, how long each may take, and how many bytes they may have in memory together."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from serving.engine.budget import Budget
from serving.front.connection import Connection, State
from serving.process import metrics

HEAD_SECONDS = 5.0  # for a head, from its first byte, and for the first byte of a new connection
MIN_RATE = 8 * 1024  # bytes a second of a body or an answer, over each REQUEST_SECONDS
STALL_SECONDS = 2.0  # where others wait for room, a body or an answer that does not move for so long is ended
LINGER_SECONDS = 2.0  # for a client to close after us, and for the last request on a connection of a stopping server


class ClientLimits(NamedTuple):
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


def overdue(connection: Connection, limits: ClientLimits, *, short: bool, stopping: float | None) -> Overdue | None:
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


class Connections(set[Connection]):
    """All that are open. One too many takes the place of the one that has not moved for the longest time."""

    def __init__(self, limits: ClientLimits) -> None:
        super().__init__()
        self._limits = limits
        self._addresses: Counter[str] = Counter()

    def enter(self, connection: Connection) -> Connection | None:
        """Add one; the one to close in its place, if there are too many of its address, or of all."""
        excess = None
        if self._addresses[connection.address] >= self._limits.per_address:
            excess = self.stalest(connection.address) or connection
        elif len(self) >= self._limits.connections:
            excess = self.stalest() or connection
        self.add(connection)
        metrics.CONNECTIONS.inc()
        self._addresses[connection.address] += 1
        return excess

    def leave(self, connection: Connection) -> None:
        self.remove(connection)
        metrics.CONNECTIONS.dec()
        self._addresses[connection.address] -= 1
        if not self._addresses[connection.address]:
            del self._addresses[connection.address]

    def stalest(self, address: str | None = None) -> Connection | None:
        """Of those that wait for their client, the one that has not moved for the longest time."""
        waiting = (c for c in self if c.state is not State.WORK and address in (None, c.address))
        return min(waiting, key=lambda c: c.progress, default=None)

    def stalled_body(self) -> Connection | None:
        """The body that has not moved for the longest time, if that is too long where others need its room."""
        bodies = (c for c in self if c.state is State.BODY and not c.paused)
        stalest = min(bodies, key=lambda c: c.progress, default=None)
        return stalest if stalest and time.monotonic() - stalest.progress > STALL_SECONDS else None


class Room:
    """A budget of bytes, shared by connections and counted as they arrive.

    Where it is used up, no body is read any further but one, the favoured: with all of them waiting for each other
    none would ever end. More than the budget is taken by what it lacks, and by what arrives in one piece.
    """

    def __init__(self, budget: Budget, piece: int, read: Callable[[Connection], None]) -> None:
        """`read` begins to read a connection again, by `piece` bytes at once."""
        self._budget, self._piece, self._read = budget, piece, read
        self._paused: deque[Connection] = deque()
        self._favoured: Connection | None = None

    @property
    def short(self) -> bool:
        """Whether somebody waits for room."""
        return bool(self._paused)

    def hold(self, connection: Connection, count: int) -> None:
        if count != connection.held:
            self._budget.take(count - connection.held, beyond=True)
            connection.held = count

    def allows(self, connection: Connection) -> bool:
        return connection.state is not State.BODY or self._budget.free > 0 or connection is self._favoured

    def pause(self, connection: Connection) -> None:
        """Have a connection wait until `resume` lets it go on."""
        connection.paused = True
        self._paused.append(connection)

    def resume(self) -> None:
        """Let as many go on as there is room for a piece of each."""
        if self._favoured is not None and self._favoured.state is not State.BODY:
            self._favoured = None
        places = max(0, self._budget.free) // self._piece
        while self._paused and (places > 0 or self._favoured is None):
            connection = self._paused.popleft()
            if connection.state is not State.BODY:
                continue
            if places <= 0:
                self._favoured = connection
            places -= 1
            connection.paused = False
            connection.restart()
            self._read(connection)
