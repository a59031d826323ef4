"""Listening sockets: taking connections, and closing without losing one."""

from __future__ import annotations

import ctypes
import errno
import logging
import socket
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from serving.front.loop import READ, Loop

log = logging.getLogger(__name__)

_ACCEPTS = 32  # at once; what has arrived already has its turn in between
_SEND_BUFFER = 128 * 1024  # the system's own limit, some MiB for each client that does not read, is too much

_SO_ATTACH_FILTER = 26  # Linux, <asm-generic/socket.h>
# A classic BPF program (bpf(4)) that drops a TCP segment with SYN but not ACK, and lets all others through.
_FLAGS, _SYN, _SYN_ACK = 13, 0x02, 0x12
_PROGRAM = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, _FLAGS),  # load the byte with the flags
        (0x54, 0, 0, _SYN_ACK),  # and
        (0x15, 0, 1, _SYN),  # if it is not SYN alone, skip one
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # keep
    )
)


def refuse_handshakes(listener: socket.socket) -> None:
    """Let a listening socket, in whichever processes it is open, begin no new connection.

    Closed at once, it would reset the connections that nobody has accepted yet, requests and all. So it begins none
    from now on, is emptied, and then closed: a client's second SYN, a second later, is refused.
    """
    program = ctypes.create_string_buffer(_PROGRAM)
    try:
        filter_ = struct.pack("HP", len(_PROGRAM) // 8, ctypes.addressof(program))
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)
    except OSError as error:  # another system, or a Unix socket
        log.warning("connections that begin while the server stops may be reset: %s", error)


class Listeners:
    """The listening sockets of a loop. `admit(socket, client, listener)` takes a connection; `make_place()` closes
    one where the system has no place for another."""

    def __init__(
        self,
        loop: Loop,
        listeners: Sequence[socket.socket],
        admit: Callable[[socket.socket, Any, socket.socket], None],
        make_place: Callable[[], None],
    ) -> None:
        self._loop, self._open, self._admit, self._make_place = loop, list(listeners), admit, make_place
        for listener in self._open:
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # its connections inherit it
            loop.watch(listener, READ, partial(self._accept, listener))

    def __len__(self) -> int:
        return len(self._open)

    def close(self) -> None:
        """Take no more connections."""
        while self._open:
            listener = self._open.pop()
            self._loop.unwatch(listener)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, client = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):  # ours; accept(2) has many of clients'
                    raise
                log.warning("a connection cannot be accepted: %s", error)
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._make_place()
                return
            self._admit(sock, client, listener)
