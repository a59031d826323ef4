"""The event loop in front of the threads: it reads whole requests and finishes answers, so that slow clients hold no
thread. A connection goes through the states of `State`: HEAD, BODY, WORK in a thread, ANSWER, and HEAD again or LINGER.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from gunicorn.workers.gthread import PollableMethodQueue  # type: ignore[import-untyped]

from serving.engine.budget import Budget
from serving.front.connection import Connection, State
from serving.front.handler import Handler
from serving.front.limits import ClientLimits, Connections, Overdue, Room, overdue
from serving.front.poller import READ, TURN, WRITE, Poller
from serving.process import metrics
from serving.web.problems import Kind

log = logging.getLogger(__name__)

ACCEPT_SECONDS = 0.5  # for handshakes that are under way when a server stops
LINGER_BYTES = 16 * 1024 * 1024  # that are thrown away for a client to see its answer
_PIECE = 256 * 1024
_SWEEP_SECONDS = 0.25
_SEND_BUFFER = 128 * 1024  # the system's own limit, some MiB for each client that does not read, is too much
_ANSWERS = {Overdue.HEAD: Kind.TOO_SLOW, Overdue.BODY: Kind.TOO_SLOW, Overdue.ROOM: Kind.OVERLOADED}  # else none


class Front:
    """The connections of some listeners. One thread calls `step` again and again; nothing in it waits for a client."""

    def __init__(
        self, cfg: Any, listeners: Sequence[socket.socket], handler: Handler, limits: ClientLimits, budget: Budget
    ) -> None:
        self._cfg, self._handler, self._limits = cfg, handler, limits
        self._connections = Connections(limits)
        self._poller = Poller()
        self._room = Room(budget, _PIECE, partial(self._poller.watch, event=READ))
        self._stopping: float | None = None
        self._next_sweep = time.monotonic()
        self._calls = PollableMethodQueue()  # what threads want to have done
        self._calls.init()
        self._poller.own(self._calls.fileno(), partial(self._calls.run_callbacks, None))
        self._listeners = list(listeners)
        for listener in listeners:
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # its connections inherit it
            self._poller.own(listener.fileno(), partial(self._accept, listener))

    def step(self) -> None:
        """Wait for something to do, for less than a second, and do it."""
        for ready in self._poller.ready(max(0.0, self._next_sweep - time.monotonic())):
            if isinstance(ready, Connection):
                self._guarded(self._read if ready.watched == READ else self._write, ready)
            else:
                ready()
        if time.monotonic() >= self._next_sweep:
            self._sweep()

    def stop(self) -> None:
        """Take no more connections but those under way, and let all that are there finish. Go on with `step`."""
        self._stopping = time.monotonic()

    @property
    def done(self) -> bool:
        """Whether a front that stops has nothing left to do."""
        return not self._listeners and not self._connections

    def close(self) -> None:
        self._handler.close()
        for connection in list(self._connections):
            self._close(connection)
        self._close_listeners()
        self._poller.close()
        self._calls.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(TURN):
            try:
                sock, client = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):  # ours; accept(2) has many of clients'
                    raise
                log.warning("a connection cannot be accepted: %s", error)
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._cut(Overdue.CONNECTIONS, self._connections.stalest())
                return
            connection = Connection(sock, client, listener.getsockname())
            self._cut(Overdue.CONNECTIONS, self._connections.enter(connection))
            if connection.state is not State.CLOSED:
                self._poller.watch(connection, READ)

    def _close_listeners(self) -> None:
        while self._listeners:
            listener = self._listeners.pop()
            self._poller.disown(listener.fileno())
            listener.close()

    def _guarded(self, act: Callable[[Connection], None], connection: Connection) -> None:
        """Do something for a client, unless it is gone."""
        if connection.state is State.CLOSED:
            return
        try:
            act(connection)
        except OSError as error:
            log.debug("a client is gone: %s", error)
            self._close(connection)

    def _read(self, connection: Connection) -> None:
        if connection.state is State.WORK:  # what comes now has time
            self._poller.unwatch(connection)
            return
        if not self._room.allows(connection):
            stalled = self._connections.stalled_body()
            if stalled is None:
                self._room.pause(connection)
                self._poller.unwatch(connection)
                return
            self._guarded(partial(self._cut, Overdue.ROOM), stalled)
            if stalled is connection:
                return
        try:
            data = connection.sock.recv(_PIECE)
        except BlockingIOError:
            return
        connection.moves(len(data))
        if not data and connection.state is State.BODY:  # it may still take an answer
            self._refuse(connection, Kind.BAD_REQUEST)
        elif not data or (connection.state is State.LINGER and connection.moved > LINGER_BYTES):
            self._close(connection)
        elif connection.state is not State.LINGER:
            connection.receive(data)
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
        if ready:
            connection.enter(State.WORK)
            if not self._handler.start(connection, partial(self._calls.defer, self._finish, connection)):
                self._refuse(connection, Kind.OVERLOADED)

    def _finish(self, connection: Connection, keep: bool | None) -> None:
        """The answer is there, as far as it has not been sent yet; `keep` is None where the client is gone."""
        if connection.state is State.CLOSED:
            connection.outbox.clear()
            return
        connection.keep = bool(keep) and connection.complete
        connection.forget_request()
        self._room.hold(connection, len(connection.received) + len(connection.outbox))
        self._guarded(self._close if keep is None else self._after, connection)
        self._room.resume()

    def _refuse(self, connection: Connection, reason: Exception | Kind) -> None:
        connection.keep = False
        connection.forget_request()
        connection.received = bytearray()
        self._handler.refuse(connection, reason)
        connection.outbox.flush(connection.sock)
        self._room.hold(connection, len(connection.outbox))
        self._after(connection)

    def _after(self, connection: Connection) -> None:
        """What follows on an answer: the rest of it, the next request, or the end."""
        if connection.outbox:
            connection.enter(State.ANSWER)
            self._poller.watch(connection, WRITE)
            return
        connection.answers += 1
        connection.enter(State.HEAD if connection.keep else State.LINGER)
        if not connection.keep:
            connection.sock.shutdown(socket.SHUT_WR)
        self._poller.watch(connection, READ)
        if connection.keep and connection.received:
            self._advance(connection)

    def _write(self, connection: Connection) -> None:
        before = connection.outbox.sent
        connection.outbox.flush(connection.sock)
        connection.moves(connection.outbox.sent - before)
        if not connection.outbox:
            self._room.hold(connection, len(connection.received))
            self._after(connection)

    def _sweep(self) -> None:
        """End what is overdue; of a crowd a few, for each is answered, and the rest after whoever is ready."""
        late: list[tuple[Overdue, Connection]] = []
        for connection in self._connections:
            reason = overdue(connection, self._limits, short=self._room.short, stopping=self._stopping)
            if reason is not None:
                late.append((reason, connection))
        for reason, connection in late[:TURN]:
            self._guarded(partial(self._cut, reason), connection)
        if len(late) <= TURN:
            self._next_sweep = time.monotonic() + _SWEEP_SECONDS
        self._room.resume()
        if self._stopping is not None and time.monotonic() - self._stopping > ACCEPT_SECONDS:
            self._close_listeners()

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
        self._connections.leave(connection)
        self._room.hold(connection, 0)
        self._poller.unwatch(connection)
        connection.close()
