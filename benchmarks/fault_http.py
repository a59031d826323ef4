"""Clients that break the rules of HTTP, over raw sockets: each sends something wrong, or in a wrong way."""

from __future__ import annotations

import random
import re
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from tests.support.raw_http import FORM, read, request

Break = Callable[[socket.socket, bytes, random.Random], None]


def sends(make: Callable[[bytes, random.Random], bytes]) -> Break:
    """A client that only sends the wrong bytes, and then says that it has no more."""

    def client(connection: socket.socket, photo: bytes, rng: random.Random) -> None:
        connection.sendall(make(photo, rng))
        connection.shutdown(socket.SHUT_WR)

    return client


def chunked(body: bytes) -> Callable[[bytes, random.Random], bytes]:
    """Makes a request whose body comes in the given chunks."""
    head = b"POST /predict/file HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + FORM + b"\r\n"
    return lambda photo, rng: head + body


def scrambled(photo: bytes, rng: random.Random) -> bytes:
    data = bytearray(request(photo))
    for _ in range(rng.randrange(1, 12)):
        data[rng.randrange(min(len(data), 300))] = rng.randrange(256)
    return bytes(data)


def half_closed(connection: socket.socket, photo: bytes, rng: random.Random) -> None:
    data = request(photo)
    connection.sendall(data[: rng.randrange(len(data))])
    connection.shutdown(socket.SHUT_WR)


def reset(connection: socket.socket, photo: bytes, rng: random.Random) -> None:
    data = request(photo)
    connection.sendall(data[: rng.randrange(len(data))])
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


# Each kind with the ways in which a client of it goes wrong.
KINDS: dict[str, list[Break]] = {
    "missing or wrong boundary": [
        *(sends(lambda photo, rng, rest=rest: request(photo, form=b"Content-Type: multipart/form-data" + rest))
          for rest in (b"\r\n", b"; boundary=\r\n", b"; boundary=other\r\n", b"; boundary=" + b"x" * 5000 + b"\r\n")),
        sends(lambda photo, rng: request(photo, form=b"")),
    ],
    "wrong lengths": [
        *(sends(lambda photo, rng, length=length: request(photo, length=length))
          for length in (b"10", b"999999", b"-1", b"1e3", b"0x10", b"", b"9" * 400, b"+20", b"99999999999")),
        sends(lambda photo, rng: request(photo, b"Content-Length: 3\r\n")),
        sends(lambda photo, rng: request(photo, b"Transfer-Encoding: chunked\r\n")),
        *(sends(chunked(body))
          for body in (b"zz\r\nab\r\n0\r\n\r\n", b"5\r\nab", b"ffffffffffffffff\r\nab\r\n", b"-1\r\n\r\n",
                       b"2\r\nabc\r\n0\r\n\r\n", b"0" * 9000, b"2;" + b"x" * 20000 + b"\r\nab\r\n0\r\n\r\n")),
    ],
    "oversized or forbidden headers": [
        sends(lambda photo, rng: request(photo, b"X-Long: " + b"x" * 100_000 + b"\r\n")),
        sends(lambda photo, rng: request(photo, *(b"X-%d: 1\r\n" % i for i in range(2000)))),
        sends(lambda photo, rng: request(photo, b"X-Null: a\0b\r\n")),
        sends(lambda photo, rng: request(photo, b"Authorization: Bearer \xff\xfe\r\n")),
        sends(lambda photo, rng: request(photo, b"X-Request-ID: " + rng.randbytes(30).hex().encode() + b"\x01\r\n")),
        sends(lambda photo, rng: b"GET /%00%ff%zz/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n"),
    ],
    "another protocol, or garbage behind a request": [
        sends(lambda photo, rng: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500)),
        sends(lambda photo, rng: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(100)),
        sends(lambda photo, rng: b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        sends(lambda photo, rng: request(photo) + rng.randbytes(300)),
        sends(lambda photo, rng: request(photo) * 5 + b"GET"),
        sends(scrambled),
    ],
    "half-closed connections": [half_closed],
    "connections that are reset": [reset],
}  # fmt: skip


def outcome(port: int, client: Break, photo: bytes, rng: random.Random, seconds: float) -> str:
    """What became of one client: the statuses of its answers, `closed` without one, `open` if the service had not let
    it go after `seconds`."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        with suppress(ConnectionError):  # it may be answered and closed before all is sent
            client(connection, photo, rng)
        if connection.fileno() < 0:
            return "left by the client"
        answer = read(connection, seconds)
    if answer is None:
        return "open"
    statuses = [status.decode() for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]
    return ",".join(dict.fromkeys(statuses)) or "closed"
