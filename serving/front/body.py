"""A request's body while it arrives, and then the file that the application reads it from."""

from __future__ import annotations

import io
from collections import deque
from functools import partial

from gunicorn.http.body import ChunkedReader  # type: ignore[import-untyped]
from gunicorn.http.errors import ChunkMissingTerminator, InvalidChunkSize, LimitRequestHeaders  # type: ignore[import-untyped]
from gunicorn.http.message import Request  # type: ignore[import-untyped]
from gunicorn.http.unreader import Unreader  # type: ignore[import-untyped]

HEAD_BYTES = 64 * 1024  # of a head, or of the trailers behind the last chunk
_BLOCK = 256 * 1024
_SMALL_CHUNKS, _MEAN_CHUNK = 256, 512  # a client may send so many small chunks; beyond them this is the least mean


class IncompleteError(Exception):
    """What arrived so far does not make it up yet."""


class Received(Unreader):  # type: ignore[misc]
    """What gunicorn's parser reads from: bytes that have arrived. It never waits for more, but raises."""

    def __init__(self, data: bytes | bytearray) -> None:
        super().__init__()
        self.unread(data)

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Raises IncompleteError: all there is has been read."""
        raise IncompleteError


def owned(data: bytes | bytearray) -> bytearray:
    """Bytes that may be changed; copied only where they may not."""
    return data if isinstance(data, bytearray) else bytearray(data)


class Body(io.BufferedIOBase):
    """A body of known length. What is read from it is let go of; a block that is read whole is not copied."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._left = length
        self._blocks: deque[bytes | bytearray] = deque()
        self.size = 0  # bytes that have arrived

    @property
    def complete(self) -> bool:
        return not self._left

    def feed(self, data: bytes | bytearray) -> bytearray:
        """Take what belongs to the body; what is left of `data` follows it, or is yet to be understood."""
        piece, rest = data, bytearray()
        if len(data) > self._left:
            piece, rest = data[: self._left], owned(data)
            del rest[: self._left]
        if self._blocks and len(self._blocks[-1]) + len(piece) <= _BLOCK:  # many small pieces would take much memory
            self._blocks[-1] = owned(self._blocks[-1])
            self._blocks[-1] += piece
        elif piece:
            self._blocks.append(piece)
        self._left -= len(piece)
        self.size += len(piece)
        return rest

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        """At most so many bytes, all for -1; none behind the last that has arrived."""
        if size is None or size < 0:
            return b"".join(iter(partial(self.read, _BLOCK), b""))
        if not self._blocks:
            return b""
        block = self._blocks.popleft()
        if len(block) > size:
            self._blocks.appendleft(block[size:])
            block = block[:size]
        return bytes(block)


class ChunkedBody(Body):
    """A body in chunks. gunicorn's own code reads the sizes and the trailers, one by one as they arrive."""

    def __init__(self, request: Request) -> None:
        super().__init__(0)  # of the chunk that is arriving
        self._reader = ChunkedReader(request, None)
        self._chunks = 0
        self._in_chunk = self._ended = False

    @property
    def complete(self) -> bool:
        return self._ended

    def feed(self, data: bytes | bytearray) -> bytearray:
        """As Body; raises gunicorn's ParseException where chunks are not as they must be."""
        data = owned(data)
        while data and not self._ended:
            if self._left:
                data = super().feed(data)
            elif not self._in_chunk:
                if not self._begin_chunk(data):
                    break
            elif len(data) < 2:
                break
            else:
                if data[:2] != b"\r\n":
                    raise ChunkMissingTerminator(bytes(data[:2]))
                del data[:2]
                self._in_chunk = False
        return data

    def _begin_chunk(self, data: bytearray) -> bool:
        """Read a size, and the trailers behind the last; False as long as they have not arrived."""
        end = data.find(b"\r\n", 0, self._reader.limit_chunk_size_line + 2) + 2
        if end < 2:
            if len(data) > self._reader.limit_chunk_size_line:
                raise InvalidChunkSize(b"the line is too long")
            return False
        sized = data[:end].lstrip(b"0")[:1].isalnum()  # only behind the last chunk, of size 0, is something read
        behind = Received(b"" if sized else data[end:])
        try:
            self._left, _ = self._reader.parse_chunk_size(behind, data=bytes(data[:end]))
        except IncompleteError:
            if len(data) > HEAD_BYTES:
                raise LimitRequestHeaders("limit request trailer section size") from None
            return False
        if self._left:
            del data[:end]
            self._in_chunk = True
        else:
            data[:] = behind.take_buffered()
            self._ended = True
        self._chunks += 1
        if self._chunks > _SMALL_CHUNKS + self.size // _MEAN_CHUNK:
            raise InvalidChunkSize(b"the chunks are too small")
        return True
