"""Clients that are slow to send a head or a body, or to take an answer, while an ordinary client watches."""

from __future__ import annotations

import random
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Event

import numpy as np
from PIL import Image

from tests.support.photos_hostile import encode
from tests.support.raw_http import FORM, PART, request

TICK = 0.05  # seconds between two pieces of an upload
_ANNOUNCED = b"POST /predict/files HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" + FORM + b"\r\n"
_CHUNKED = b"POST /predict/files HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + FORM + b"\r\n"
_BUNDLE = b"GET /docs/js/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass(frozen=True)
class Kind:
    """What a client sends at once, and then one byte a second for as long as it may, if it trickles."""

    first: Callable[[bytes], bytes]
    trickle: bytes = b""


KINDS: dict[str, Kind] = {
    "nothing sent": Kind(lambda photo: b""),
    "half a head": Kind(lambda photo: request(photo)[:60]),
    "a head, byte by byte": Kind(lambda photo: b"GET /healthz HTTP/1.1\r\nX: ", b"x"),
    "100 MB announced, nothing sent": Kind(lambda photo: _ANNOUNCED % 104_857_600),
    "half a photo": Kind(lambda photo: request(photo)[: len(photo) // 2]),
    "a body, byte by byte": Kind(lambda photo: _ANNOUNCED % 9_999_999 + PART, b"x"),
    "chunks, byte by byte": Kind(lambda photo: _CHUNKED + b"fffff\r\n", b"x"),
    "deaf to a large answer": Kind(lambda photo: _BUNDLE * 20),
}


def hold_on(port: int, name: str, photo: bytes, count: int, begun: Event, stop: Event) -> None:
    """So many clients of one kind, which come back as soon as they are let go, until `stop`."""
    begun.set()
    kind = KINDS[name]
    first = kind.first(photo)
    here = [_come(port, first) for _ in range(count)]
    while not stop.wait(1):
        here = [_come(port, first) if one is None or _let_go(one, kind.trickle) else one for one in here]


def _come(port: int, first: bytes) -> socket.socket | None:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # the deaf one's side, too, holds little
    connection.settimeout(0.5)
    try:
        connection.connect(("127.0.0.1", port))
        connection.setblocking(False)
        if first:
            connection.send(first)
    except OSError:
        return None
    return connection


def _let_go(connection: socket.socket, trickle: bytes) -> bool:
    """Whether the service has closed a connection; told without reading what it has sent."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    with suppress(OSError):
        if trickle:
            connection.send(trickle)
    return bool(poll.poll(0))


@contextmanager
def crowd(port: int, name: str, photo: bytes, count: int) -> Iterator[None]:
    """Such clients, in a process of their own."""
    context = get_context("spawn")
    begun, stop = context.Event(), context.Event()
    process = context.Process(target=hold_on, args=(port, name, photo, count, begun, stop))
    process.start()
    begun.wait()  # until it has imported what it needs, which takes a core for a while, but before they come
    try:
        yield
    finally:
        stop.set()
        process.join()


def phone_photo() -> bytes:
    """12 megapixels in 3 MB."""
    grain = np.random.default_rng(0).integers(0, 256, (500, 667, 3), np.uint8)
    return encode(Image.fromarray(grain).resize((4000, 3000)), "JPEG", quality=80)


def phones(port: int, photo: bytes, count: int, rate: float) -> Counter[str]:
    """So many honest uploads that begin within a second, each at `rate` bytes a second; their statuses."""
    message, piece, rng = request(photo), int(rate * TICK), random.Random(0)
    ends: Counter[str] = Counter()
    sent = {socket.create_connection(("127.0.0.1", port)): -rng.randrange(int(rate)) for _ in range(count)}
    for connection in sent:
        connection.setblocking(False)
    while sent:
        began = time.monotonic()
        for connection, done in list(sent.items()):
            try:
                went = connection.send(message[done : done + piece]) if done >= 0 else min(piece, -done)
                sent[connection] += went
                answer = connection.recv(4096)
                ends[answer[9:12].decode() or "closed"] += 1
                del sent[connection]
            except BlockingIOError:
                continue
            except OSError as error:
                ends[type(error).__name__] += 1
                del sent[connection]
        time.sleep(max(0.0, TICK + began - time.monotonic()))
    return ends
