"""An answer on its way to a client that may be slow to take it."""

from __future__ import annotations

import os
import socket
from collections import deque
from contextlib import suppress
from typing import IO, NamedTuple


class _File(NamedTuple):
    descriptor: int
    offset: int
    end: int


class Outbox:
    """Where an answer is written to in place of a socket: it never waits for the client."""

    def __init__(self) -> None:
        self._parts: deque[bytearray | _File] = deque()
        self.sent = 0

    def __bool__(self) -> bool:
        return bool(self._parts)

    def __len__(self) -> int:
        """Bytes of memory that are held."""
        return sum(len(part) for part in self._parts if isinstance(part, bytearray))

    def sendall(self, data: bytes) -> None:
        if self._parts and isinstance(self._parts[-1], bytearray):
            self._parts[-1] += data
        else:
            self._parts.append(bytearray(data))

    def sendfile(self, file: IO[bytes], offset: int, count: int) -> None:
        """Add a part of a file, which is read as the client takes it."""
        self._parts.append(_File(os.dup(file.fileno()), offset, offset + count))

    def flush(self, sock: socket.socket) -> None:
        """Send as much as the client takes now. Raises OSError when it is gone."""
        with suppress(BlockingIOError):
            while self._parts:
                part = self._parts[0]
                if isinstance(part, bytearray):
                    count = sock.send(part)
                    del part[:count]
                    done = not part
                else:
                    count = os.sendfile(sock.fileno(), part.descriptor, part.offset, part.end - part.offset)
                    self._parts[0] = part._replace(offset=part.offset + count)
                    done = count == 0 or part.offset + count == part.end
                self.sent += count
                if done:
                    self._drop()

    def clear(self) -> None:
        while self._parts:
            self._drop()

    def _drop(self) -> None:
        part = self._parts.popleft()
        if isinstance(part, _File):
            os.close(part.descriptor)
