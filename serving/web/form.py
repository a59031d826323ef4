"""The photos of a form, kept in memory: none is written to a disk but by AUDIT_DIR."""

from __future__ import annotations

from typing import IO

from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
)

from serving.web.problems import Kind, Problem

PARTS = 1000  # of a form, at most
_PIECE = 256 * 1024


def read_photos(stream: IO[bytes], boundary: str) -> list[bytes]:
    """The files that a multipart form names `file`, one or more; other parts are passed over. Raises Problem.

    Werkzeug's own parser takes four times as long for a photo. Names are read as Latin-1, which every byte is.
    """
    photos: list[list[bytes]] = []
    pieces: list[bytes] | None = None  # of the photo that is being read
    try:
        parser = PushMultipartParser(boundary, max_segment_count=PARTS, header_charset="latin-1")
        while not parser.closed:
            for event in parser.parse(stream.read(_PIECE)):
                if isinstance(event, MultipartSegment):
                    pieces = [] if event.name == "file" and _is_file(event) else None
                    photos += [] if pieces is None else [pieces]
                elif event is not None and pieces is not None:
                    pieces.append(event)
    except ParserLimitReached as error:
        raise Problem(Kind.TOO_MANY_BYTES, f"the form: {error}") from None
    except MultipartError as error:
        raise Problem(Kind.BAD_REQUEST, f"the form cannot be understood: {error}") from None
    if not photos:
        raise Problem(Kind.BAD_REQUEST, "file: send the photo as a file, with a file name")
    return [b"".join(photo) for photo in photos]


def _is_file(part: MultipartSegment) -> bool:
    """Whether a part has a file name; some clients send one that is not ASCII in a way of its own (RFC 5987)."""
    return part.filename is not None or "filename*=" in part.header("Content-Disposition").lower()
