"""Who is ready, and whose turn it is where a crowd comes at once."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator

from serving.front.connection import Connection

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
TURN = 16  # new clients, and as many known ones, that have a turn before the next look at who is ready


class Poller:
    """Watches clients' connections, and files of the loop's own, each with what to do once it can be read."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._own: dict[int, Callable[[], None]] = {}
        self._connections: dict[int, Connection] = {}

    def own(self, file: int, act: Callable[[], None]) -> None:
        """Watch a file of the loop's own, by its descriptor."""
        self._own[file] = act
        self._epoll.register(file, READ)

    def disown(self, file: int) -> None:
        """Watch it no more."""
        del self._own[file]
        self._epoll.unregister(file)

    def watch(self, connection: Connection, event: int) -> None:
        """Watch a connection for one event, in place of another."""
        if connection.watched != event:
            file = connection.sock.fileno()
            (self._epoll.modify if connection.watched else self._epoll.register)(file, event)
            connection.watched, self._connections[file] = event, connection

    def unwatch(self, connection: Connection) -> None:
        """Watch it no more, if it was."""
        if connection.watched:
            file = connection.sock.fileno()
            self._epoll.unregister(file)
            connection.watched = 0
            del self._connections[file]

    def ready(self, seconds: float) -> Iterator[Callable[[], None] | Connection]:
        """Wait so long at most; then the loop's own acts, and connections: of a crowd a few, and before them clients
        that had answers already. One that is unwatched meanwhile is passed over."""
        files = [file for file, _ in self._epoll.poll(seconds)]
        yield from [self._own[file] for file in files if file in self._own]
        clients = [file for file in files if file in self._connections]
        if len(clients) > TURN:
            known, new = list[int](), list[int]()
            for file in clients:
                (known if self._connections[file].answers else new).append(file)
            clients = known[:TURN] + new[:TURN]
        for file in clients:
            if connection := self._connections.get(file):
                yield connection

    def close(self) -> None:
        """Watch nothing any more."""
        self._epoll.close()
