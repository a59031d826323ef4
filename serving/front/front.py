"""Reads whole requests, and finishes answers, in one loop in front of the threads: slow clients hold none of them."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from serving.front.connection import Connection, State
from serving.front.handler import Handler
from serving.front.limits import Connections, Limits, Overdue, overdue
from serving.front.listener import Listeners
from serving.front.loop import READ, WRITE, Loop
from serving.front.room import Room
from serving.process import metrics
from serving.web.problems import Kind
from serving.web.state import Budget

log = logging.getLogger(__name__)

ACCEPT_SECONDS = 0.5  # for handshakes that are under way when a server stops
LINGER_BYTES = 16 * 1024 * 1024  # that are thrown away for a client to see its answer
_PIECE = 256 * 1024
_SWEEP_SECONDS = 0.25
_ANSWERS = {Overdue.HEAD: Kind.TOO_SLOW, Overdue.BODY: Kind.TOO_SLOW, Overdue.ROOM: Kind.OVERLOADED}  # else none


class Front:
    """The connections of some listeners, and whose turn it is. One thread calls `step` again and again."""

    def __init__(
        self, cfg: Any, listeners: Sequence[socket.socket], handler: Handler, limits: Limits, budget: Budget
    ) -> None:
        self._cfg, self._handler, self._limits = cfg, handler, limits
        self._connections = Connections(limits)
        self._room = Room(budget, _PIECE, partial(self._watch, event=READ))
        self._loop = Loop(_SWEEP_SECONDS, self._sweep)
        self._listeners = Listeners(self._loop, listeners, self._admit, self._make_place)
        self._stopping: float | None = None

    def step(self) -> None:
        """Wait for something to do, for less than a second, and do it."""
        self._loop.step()

    def stop(self) -> None:
        """Take no more connections but those under way, and let all that are there finish. Go on with `step`."""
        self._stopping = time.monotonic()

    @property
    def done(self) -> bool:
        """Whether a front that stops has nothing left to do."""
        return not self._listeners and not self._connections

    def close(self) -> None:
        """Let go of everything."""
        for connection in self._connections:
            self._close(connection)
        self._listeners.close()
        self._loop.close()

    def _admit(self, sock: socket.socket, client: Any, listener: socket.socket) -> None:
        connection = Connection(sock, client, listener.getsockname())
        self._cut(Overdue.CONNECTIONS, self._connections.add(connection))
        if connection.state is not State.CLOSED:
            self._watch(connection, READ)

    def _make_place(self) -> None:
        self._cut(Overdue.CONNECTIONS, self._connections.stalest())

    def _watch(self, connection: Connection, event: int) -> None:
        act = self._read if event == READ else self._write
        self._loop.watch(connection.real, event, partial(self._guarded, act, connection))

    def _guarded(self, act: Callable[[Connection], None], connection: Connection) -> None:
        """Do something for a client, unless it is gone."""
        if connection.state is State.CLOSED:  # by what came before in the same step
            return
        try:
            act(connection)
        except OSError as error:
            log.debug("a client is gone: %s", error)
            self._close(connection)

    def _read(self, connection: Connection) -> None:
        if not self._room.allows(connection):
            stalled = self._connections.stalled_body()
            if stalled is None:
                self._room.pause(connection)
                self._loop.unwatch(connection.real)
                return
            self._guarded(partial(self._cut, Overdue.ROOM), stalled)
            if stalled is connection:
                return
        try:
            data = connection.real.recv(_PIECE)
        except BlockingIOError:
            return
        connection.moves(len(data))
        if not data and connection.state is State.BODY:  # it may still take an answer
            self._refuse(connection, Kind.BAD_REQUEST)
        elif not data or (connection.state is State.LINGER and connection.moved > LINGER_BYTES):
            self._close(connection)
        elif connection.state is not State.LINGER:
            connection.received += data
            self._room.hold(connection, connection.held + len(data))
            self._advance(connection)

    def _advance(self, connection: Connection) -> None:
        """Go on with a request as far as what has arrived of it allows."""
        try:
            ready = connection.advance(self._cfg, self._handler.body_limit)
        except OSError:
            raise
        except Exception as error:  # gunicorn's, about what it cannot understand; anything else is answered with 500
            self._refuse(connection, error)
            return
        if not ready:
            return
        self._loop.unwatch(connection.real)
        connection.enter(State.WORK)
        future = self._handler.start(connection)
        if future is None:
            self._refuse(connection, Kind.OVERLOADED)
        else:
            future.add_done_callback(lambda done: self._loop.call(partial(self._finish, connection, done)))

    def _finish(self, connection: Connection, done: Future[bool]) -> None:
        """The answer is there, as far as it has not been sent yet."""
        if connection.state is State.CLOSED:
            connection.sock.clear()
            return
        error = done.exception()
        connection.keep = error is None and done.result() and connection.complete
        connection.body = None
        self._room.hold(connection, len(connection.received) + len(connection.sock))
        self._guarded(self._after if error is None else self._close, connection)
        self._room.resume()

    def _refuse(self, connection: Connection, reason: Exception | Kind) -> None:
        self._loop.unwatch(connection.real)
        connection.keep, connection.body = False, None
        connection.received.clear()
        self._handler.refuse(connection, reason)
        connection.sock.flush(connection.real)
        self._room.hold(connection, len(connection.sock))
        self._after(connection)

    def _after(self, connection: Connection) -> None:
        """What follows on an answer: the rest of it, the next request, or the end."""
        if connection.sock:
            connection.enter(State.ANSWER)
            self._watch(connection, WRITE)
            return
        connection.enter(State.HEAD if connection.keep else State.LINGER)
        if not connection.keep:
            connection.real.shutdown(socket.SHUT_WR)
        self._watch(connection, READ)
        if connection.keep and connection.received:
            self._advance(connection)

    def _write(self, connection: Connection) -> None:
        before = connection.sock.sent
        connection.sock.flush(connection.real)
        connection.moves(connection.sock.sent - before)
        if not connection.sock:
            self._loop.unwatch(connection.real)
            self._room.hold(connection, len(connection.received))
            self._after(connection)

    def _sweep(self) -> None:
        """End what is overdue."""
        for connection in self._connections:
            reason = overdue(connection, self._limits, short=self._room.short, stopping=self._stopping)
            if reason is not None:
                self._guarded(partial(self._cut, reason), connection)
        self._room.resume()
        if self._stopping is not None and time.monotonic() - self._stopping > ACCEPT_SECONDS:
            self._listeners.close()
        metrics.CONNECTIONS.set(len(self._connections))

    def _cut(self, reason: Overdue, connection: Connection | None) -> None:
        """End a connection, if there is one, with an answer where the client may still expect it."""
        if connection is None:
            return
        metrics.CUT_OFF.labels(reason.value).inc()
        if reason in _ANSWERS and connection.state is not State.ANSWER:
            self._refuse(connection, _ANSWERS[reason])
        else:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._connections.remove(connection)
        self._room.hold(connection, 0)
        self._loop.unwatch(connection.real)
        connection.close()
