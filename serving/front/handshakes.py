"""Closing a listening socket without losing a connection. gunicorn's server imports this before it forks."""

from __future__ import annotations

import ctypes
import logging
import socket
import struct

log = logging.getLogger(__name__)

_SO_ATTACH_FILTER = 26  # Linux, <asm-generic/socket.h>
_FLAGS, _SYN, _SYN_ACK = 13, 0x02, 0x12
# A classic BPF program (bpf(4)) that drops a TCP segment with SYN but not ACK, and lets all others through.
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
