"""One client's connection: what has arrived, the request that it makes up, and the answer that is still to be taken."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from gunicorn.http.body import ChunkedReader  # type: ignore[import-untyped]
from gunicorn.http.errors import LimitRequestHeaders  # type: ignore[import-untyped]
from gunicorn.http.message import Request  # type: ignore[import-untyped]

from serving.front.body import HEAD_BYTES, Body, ChunkedBody, IncompleteError, Received, owned
from serving.front.outbox import Outbox

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class State(Enum):
    """What a connection waits for."""

    HEAD = auto()  # a request, or the rest of its head
    BODY = auto()
    WORK = auto()  # a thread of ours
    ANSWER = auto()  # the client, to take the answer
    LINGER = auto()  # the client, to close: closed by us with something unread, it would lose its answer
    CLOSED = auto()  # nothing


class Connection:
    """A client's connection. `outbox` is what gunicorn writes an answer to; the socket itself never blocks."""

    def __init__(self, sock: socket.socket, client: Any, server: Any) -> None:
        sock.setblocking(False)
        self.sock, self.client, self.server = sock, client, server
        self.address = _network(client)
        self.outbox = Outbox()
        self.received: bytes | bytearray = bytearray()  # what is not understood yet
        self._tried = 0  # bytes of it that were no whole head
        self.request: Request | None = None
        self.body: Body | None = None
        self.body_limit: int | None = None  # None: it is answered without its body
        self.exchange: tuple[Any, dict[str, Any]] | None = None  # gunicorn's response and WSGI environment
        self.paused = False  # not read, for want of room
        self.watched = 0  # the event that the loop waits for
        self.requests = self.answers = 0
        self.began = 0.0  # when the first byte of a request came, by the monotonic clock
        self.held = 0  # bytes it has of the budget
        self.keep = True  # whether it may bring another request after this one
        self._expects_continue = False
        self.enter(State.HEAD)

    @property
    def complete(self) -> bool:
        return self.body is not None and self.body.complete

    def enter(self, state: State) -> None:
        self.state = state
        self.restart()

    def forget_request(self) -> None:
        self.request = self.body = self.body_limit = self.exchange = None

    def restart(self) -> None:
        """Begin to measure anew how fast it is."""
        self.progress = self.since = time.monotonic()
        self.moved = 0  # bytes since `since`

    def moves(self, count: int) -> None:
        self.progress = time.monotonic()
        if self.state is State.HEAD and not self.moved:
            self.since = self.progress  # a head is timed from its first byte
        self.moved += count

    def receive(self, data: bytes) -> None:
        """Add what has arrived; the piece of a body is not copied."""
        if self.received or self.body is None:
            self.received = owned(self.received)
            self.received += data
        else:
            self.received = data

    def advance(self, cfg: Any, body_limit: Callable[[Connection], int | None]) -> bool:
        """Whether as much of a request has arrived as is needed for an answer. `body_limit` tells how many bytes of a
        body are read, None for none. Raises gunicorn's ParseException, and OSError when the client is gone."""
        if self.body is not None:
            self.received = self.body.feed(self.received)
        elif not self._parse(cfg):
            return False
        elif not self.complete:
            self.body_limit = body_limit(self)
            if self.body_limit is not None:
                if self._expects_continue and self.body is not None and not self.body.size:
                    self.outbox.sendall(_CONTINUE)
                    self.outbox.flush(self.sock)
                self.enter(State.BODY)
        assert self.body is not None
        return self.complete or self.body_limit is None or self.body.size > self.body_limit

    def _parse(self, cfg: Any) -> bool:
        """Whether the head is complete, which gunicorn's parser decides: asked anew once another line has come, for
        hundreds of clients may send their heads byte by byte."""
        if self._tried and self.received.find(b"\n", self._tried) < 0 and len(self.received) <= HEAD_BYTES:
            self._tried = len(self.received)
            return False
        end = self.received.find(b"\r\n\r\n", 1, HEAD_BYTES) + 4  # no more is copied than is needed
        head = self.received[: end if end > 4 else HEAD_BYTES]
        source = Received(head)
        try:
            request = Request(cfg, source, self.client, self.requests + 1)
        except IncompleteError:
            if len(self.received) > HEAD_BYTES:
                raise LimitRequestHeaders("the head is too long") from None
            self._tried = len(self.received)
            return False
        self._tried = 0
        self.requests += 1
        self.request, self.began = request, self.since
        reader = request.body.reader
        self.body = request.body = ChunkedBody(request) if isinstance(reader, ChunkedReader) else Body(reader.length)
        self._expects_continue, request._expected_100_continue = request._expected_100_continue, False
        behind = owned(self.received)
        del behind[: len(head) - len(source.take_buffered())]
        self.received = self.body.feed(behind)
        return True

    def close(self) -> None:
        self.state = State.CLOSED
        self.outbox.clear()
        self.sock.close()


def _network(client: Any) -> str:
    """Whose connection it is, for a limit: an IPv4 address, or a customer's IPv6 network (/64)."""
    if not isinstance(client, tuple):
        return ""  # a Unix socket
    host: str = client[0].partition("%")[0]
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
