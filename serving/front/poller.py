"""Who is ready, and whose turn it is where a crowd comes at once."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Iterator

from serving.front.connection import Connection

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
TURN = 16  # new clients, and as many known ones, that have a turn before the next look at who is ready


class Poller:
    """Watches clients' connections, and files of the loop's own, each with what to do once it can be read."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def close(self) -> None:
        self._selector.close()

    def own(self, file: int, act: Callable[[], None]) -> None:
        """Watch a file of the loop's own, by its descriptor."""
        self._selector.register(file, READ, act)

    def disown(self, file: int) -> None:
        self._selector.unregister(file)

    def watch(self, connection: Connection, event: int) -> None:
        """Watch a connection for one event, in place of another."""
        if connection.watched != event:
            change = self._selector.modify if connection.watched else self._selector.register
            change(connection.sock, event, connection)
            connection.watched = event

    def unwatch(self, connection: Connection) -> None:
        """Watch it no more, if it was."""
        if connection.watched:
            self._selector.unregister(connection.sock)
            connection.watched = 0

    def ready(self, seconds: float) -> Iterator[Callable[[], None] | Connection]:
        """Wait so long at most; then the loop's own acts, and connections: of a crowd a few, and before them clients
        that had answers already. One that is unwatched meanwhile is passed over."""
        found = [key.data for key, _ in self._selector.select(seconds)]
        clients = [one for one in found if isinstance(one, Connection)]
        yield from [one for one in found if not isinstance(one, Connection)]
        if len(clients) > TURN:
            known = [client for client in clients if client.answers]
            new = [client for client in clients if not client.answers]
            clients = known[:TURN] + new[:TURN]
        yield from (client for client in clients if client.watched)
