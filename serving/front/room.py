"""Room for the bytes of requests and answers: counted as they come, and who has to wait when there are too many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from serving.front.connection import Connection, State
from serving.web.state import Budget


class Room:
    """A budget of bytes, shared by connections.

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
        """Count so many bytes as a connection's, in place of what it had."""
        self._budget.take(count - connection.held, beyond=True)
        connection.held = count

    def allows(self, connection: Connection) -> bool:
        """Whether a connection may be read."""
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
