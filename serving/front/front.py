"""The event loop in front of the threads: it reads whole requests and finishes answers, so that slow clients hold no
thread. A connection goes through the states of `State`: HEAD, BODY, WORK in a thread, ANSWER, and HEAD again or LINGER.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from flask import Flask
from gunicorn.workers.gthread import PollableMethodQueue  # type: ignore[import-untyped]

from serving.engine.budget import Budget
from serving.front.connection import Connection, State
from serving.front.handler import STATUS_PATHS, Handler
from serving.front.limits import Connections, Limits, Overdue, Room, overdue
from serving.process import metrics
from serving.web import state
from serving.web.problems import Kind

log = logging.getLogger(__name__)

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
ACCEPT_SECONDS = 0.5  # for handshakes that are under way when a server stops
LINGER_BYTES = 16 * 1024 * 1024  # that are thrown away for a client to see its answer
_PIECE = 256 * 1024
_SWEEP_SECONDS = 0.25
_TURN = 16  # new clients, and as many known ones, that have a turn before the next look at who is ready
_SEND_BUFFER = 128 * 1024  # the system's own limit, some MiB for each client that does not read, is too much
_PROBES, _PROBE_BYTES = 64, 1024 * 1024  # connections at HEALTH_PORT, and what they may hold
_ANSWERS = {Overdue.HEAD: Kind.TOO_SLOW, Overdue.BODY: Kind.TOO_SLOW, Overdue.ROOM: Kind.OVERLOADED}  # else none


def start(cfg: Any, app: Flask, listeners: Sequence[socket.socket], alive: Callable[[], bool]) -> Front:
    """A front for the listeners of a worker; where HEALTH_PORT is set, that port has another in a thread of its own."""
    shared = state.of(app)
    settings = shared.settings
    inside = [one for one in listeners if one.getsockname()[1] == settings.health_port]
    limits = Limits(settings.request_seconds, cfg.keepalive, settings.connections, settings.connections_per_address)
    if inside:
        few = limits._replace(connections=_PROBES, per_address=_PROBES)
        probes = Front(cfg, inside, Handler(cfg, app, alive, only=STATUS_PATHS), few, Budget(_PROBE_BYTES))

        def answer() -> None:
            while alive():
                probes.step()
            probes.close()

        threading.Thread(target=answer, name="health", daemon=True).start()
    outside = [one for one in listeners if one not in inside]
    return Front(cfg, outside, Handler(cfg, app, alive), limits, shared.bytes)


class Front:
    """The connections of some listeners. One thread calls `step` again and again; nothing in it waits for a client."""

    def __init__(
        self, cfg: Any, listeners: Sequence[socket.socket], handler: Handler, limits: Limits, budget: Budget
    ) -> None:
        self._cfg, self._handler, self._limits = cfg, handler, limits
        self._connections = Connections(limits)
        self._room = Room(budget, _PIECE, partial(self._watch, event=READ))
        self._stopping: float | None = None
        self._swept = time.monotonic()
        self._poller = select.epoll()
        self._watched: dict[int, Connection] = {}
        self._calls = PollableMethodQueue()  # what threads want to have done
        self._calls.init()
        self._own: dict[int, Callable[[], None]] = {self._calls.fileno(): partial(self._calls.run_callbacks, None)}
        self._poller.register(self._calls.fileno(), READ)
        self._listeners = list(listeners)
        for listener in listeners:
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # its connections inherit it
            self._own[listener.fileno()] = partial(self._accept, listener)
            self._poller.register(listener, READ)

    def step(self) -> None:
        """Wait for something to do, for less than a second, and do it."""
        for file, _ in self._turn(self._poller.poll(_SWEEP_SECONDS)):
            if file in self._own:
                self._own[file]()
            elif connection := self._watched.get(file):  # else it was closed in this very step
                self._guarded(self._read if connection.watched == READ else self._write, connection)
        if time.monotonic() - self._swept > _SWEEP_SECONDS:
            self._sweep()
            self._swept = time.monotonic()

    def stop(self) -> None:
        """Take no more connections but those under way, and let all that are there finish. Go on with `step`."""
        self._stopping = time.monotonic()

    @property
    def done(self) -> bool:
        """Whether a front that stops has nothing left to do."""
        return not self._listeners and not self._connections

    def close(self) -> None:
        """Let go of everything."""
        self._handler.close()
        for connection in list(self._connections):
            self._close(connection)
        self._close_listeners()
        self._poller.close()
        self._calls.close()

    def _turn(self, ready: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Whose turn it is: of a crowd that comes at once, a few, and before them clients that had answers already."""
        if len(ready) <= _TURN:
            return ready
        own: list[tuple[int, int]] = []
        known: list[tuple[int, int]] = []
        new: list[tuple[int, int]] = []
        for one in ready:
            connection = self._watched.get(one[0])
            (own if connection is None else known if connection.answers else new).append(one)
        return own + known[:_TURN] + new[:_TURN]

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_TURN):
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
                self._watch(connection, READ)

    def _close_listeners(self) -> None:
        while self._listeners:
            listener = self._listeners.pop()
            del self._own[listener.fileno()]
            self._poller.unregister(listener)
            listener.close()

    def _watch(self, connection: Connection, event: int) -> None:
        if connection.watched != event:
            file = connection.sock.fileno()
            (self._poller.modify if connection.watched else self._poller.register)(file, event)
            connection.watched, self._watched[file] = event, connection

    def _unwatch(self, connection: Connection) -> None:
        if connection.watched:
            file = connection.sock.fileno()
            self._poller.unregister(file)
            connection.watched = 0
            del self._watched[file]

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
            self._unwatch(connection)
            return
        if not self._room.allows(connection):
            stalled = self._connections.stalled_body()
            if stalled is None:
                self._room.pause(connection)
                self._unwatch(connection)
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
        connection.received.clear()
        self._handler.refuse(connection, reason)
        connection.outbox.flush(connection.sock)
        self._room.hold(connection, len(connection.outbox))
        self._after(connection)

    def _after(self, connection: Connection) -> None:
        """What follows on an answer: the rest of it, the next request, or the end."""
        if connection.outbox:
            connection.enter(State.ANSWER)
            self._watch(connection, WRITE)
            return
        connection.answers += 1
        connection.enter(State.HEAD if connection.keep else State.LINGER)
        if not connection.keep:
            connection.sock.shutdown(socket.SHUT_WR)
        self._watch(connection, READ)
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
        """End what is overdue."""
        for connection in list(self._connections):
            reason = overdue(connection, self._limits, short=self._room.short, stopping=self._stopping)
            if reason is not None:
                self._guarded(partial(self._cut, reason), connection)
        self._room.resume()
        if self._stopping is not None and time.monotonic() - self._stopping > ACCEPT_SECONDS:
            self._close_listeners()
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
        self._connections.leave(connection)
        self._room.hold(connection, 0)
        self._unwatch(connection)
        connection.close()
