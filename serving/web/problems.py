"""Every error a client can meet, as RFC 9457 problem+json with a stable `type`."""

from __future__ import annotations

import json
import logging
import uuid
from enum import Enum

from flask import Flask, Response, g
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from serving.engine.batcher import Stuck
from serving.engine.deployment import PhotoTooHeavy
from serving.engine.engine import Overloaded
from serving.fetch.client import UrlTooLarge, UrlUnfetchable
from serving.fetch.policy import UrlRefused
from serving.inference.photo.errors import (
    BrokenPhoto,
    DecodersBusy,
    NotAPhoto,
    PhotoTooCostly,
    PhotoTooLarge,
    UnsupportedPhoto,
)
from serving.process import metrics

log = logging.getLogger(__name__)

TYPE_PREFIX = "urn:dirtycar:problem:"
MIMETYPE = "application/problem+json"
RETRY_AFTER = "1"  # seconds; a full queue empties in about one


class Kind(Enum):
    """The kinds of problem: status and title, which never change for a type."""

    BAD_REQUEST = (400, "The request cannot be understood")
    NOT_A_PHOTO = (400, "The bytes are not a photo")
    BROKEN_PHOTO = (400, "The photo is damaged")
    UNAUTHORIZED = (401, "A valid token is required")
    NOT_FOUND = (404, "There is nothing at this path")
    METHOD_NOT_ALLOWED = (405, "This path does not answer this method")
    TOO_MANY_BYTES = (413, "Too many bytes")
    TOO_MANY_PIXELS = (413, "Too many pixels")
    TOO_COSTLY = (413, "Decoding the photo takes too much")
    TOO_MANY_PHOTOS = (413, "Too many photos in one request")
    UNSUPPORTED_PHOTO = (415, "This type of image is not read here")
    UNSUPPORTED_MEDIA_TYPE = (415, "The request's content type is not read here")
    TOO_SLOW = (408, "The request did not arrive in time")
    EXPECTATION_FAILED = (417, "The request expects what is not done here")
    URI_TOO_LONG = (414, "The request's URI is too long")
    HEAD_TOO_LARGE = (431, "The request's header fields are too long or too many")
    TRANSFER_CODING_UNKNOWN = (501, "The request's transfer coding is not read here")
    URL_REFUSED = (422, "The URL is refused")
    URL_UNFETCHABLE = (422, "The URL could not be fetched")
    OVERLOADED = (503, "Too much at once; try again shortly")
    NOT_READY = (503, "The service is not ready")
    INTERNAL = (500, "The service failed")

    def __init__(self, status: int, title: str) -> None:
        self.status, self.title = status, title
        self.type = TYPE_PREFIX + self.name.lower().replace("_", "-")  # the stable URI that programs compare


class Problem(Exception):
    """A request that ends in an error; `detail` is for a person to read."""

    def __init__(
        self, kind: Kind, detail: str, headers: dict[str, str] | None = None, *, reason: str | None = None
    ) -> None:
        """`reason` tells causes of one kind apart in the metrics: a word of ours, by default the kind's name."""
        super().__init__(detail)
        self.kind, self.detail = kind, detail
        self.reason = reason or kind.name.lower()
        self.headers = ({"Retry-After": RETRY_AFTER} if kind.status == 503 else {}) | (headers or {})

    def body(self) -> dict[str, str | int]:
        kind = self.kind
        return {"type": kind.type, "title": kind.title, "status": kind.status, "detail": self.detail}

    def response(self) -> Response:
        """The whole answer; it carries the request's id, so that a client can quote it."""
        body = self.body() | ({"request_id": g.request_id} if "request_id" in g else {})
        g.problem = self.kind
        if self.kind.status == 503:
            metrics.UNAVAILABLE.labels(self.reason).inc()
        return Response(json.dumps(body), self.kind.status, self.headers, mimetype=MIMETYPE)


# What an error of the serving path is to the client, and to the metrics where its kind has several causes.
_KINDS: dict[type[Exception], tuple[Kind, str | None]] = {
    NotAPhoto: (Kind.NOT_A_PHOTO, None),
    BrokenPhoto: (Kind.BROKEN_PHOTO, None),
    PhotoTooLarge: (Kind.TOO_MANY_PIXELS, None),
    PhotoTooCostly: (Kind.TOO_COSTLY, None),
    DecodersBusy: (Kind.OVERLOADED, "decoders"),
    UnsupportedPhoto: (Kind.UNSUPPORTED_PHOTO, None),
    PhotoTooHeavy: (Kind.TOO_MANY_BYTES, None),
    UrlRefused: (Kind.URL_REFUSED, None),
    UrlUnfetchable: (Kind.URL_UNFETCHABLE, None),
    UrlTooLarge: (Kind.TOO_MANY_BYTES, None),
    Overloaded: (Kind.OVERLOADED, "queue"),
    TimeoutError: (Kind.OVERLOADED, "timeout"),
    Stuck: (Kind.NOT_READY, "stuck"),
}
_HTTP_KINDS = {
    404: Kind.NOT_FOUND,
    405: Kind.METHOD_NOT_ALLOWED,
    413: Kind.TOO_MANY_BYTES,
    415: Kind.UNSUPPORTED_MEDIA_TYPE,
}


def as_problem(error: Exception) -> Problem:
    """The problem that an error of the serving path is to the client."""
    kind, reason = _KINDS[type(error)]
    return Problem(kind, str(error) or "no answer in time", reason=reason)


def raw_response(kind: Kind, detail: str) -> bytes:
    """A problem as a whole HTTP response, for what never becomes a request; the connection ends with it."""
    body = json.dumps(Problem(kind, detail).body() | {"request_id": uuid.uuid4().hex}).encode()
    retry = f"Retry-After: {RETRY_AFTER}\r\n" if kind.status == 503 else ""
    head = f"HTTP/1.1 {kind.status} {HTTP_STATUS_CODES[kind.status]}\r\nConnection: close\r\n{retry}"
    return f"{head}Content-Type: {MIMETYPE}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def register(app: Flask) -> None:
    """Answer every error with problem+json: ours, Flask's own, and those nobody foresaw."""
    app.register_error_handler(Problem, Problem.response)
    for known in _KINDS:
        app.register_error_handler(known, lambda error: as_problem(error).response())
    app.register_error_handler(ValidationError, invalid_request)
    app.register_error_handler(HTTPException, _http_problem)
    app.register_error_handler(Exception, _internal_problem)


def invalid_request(error: ValidationError) -> Response:
    """A body whose parts are not those asked for, told in words."""
    found = error.errors(include_input=False)
    parts = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" if e["loc"] else "the body is no JSON object" for e in found)
    return Problem(Kind.BAD_REQUEST, "; ".join(parts)).response()


def _http_problem(error: HTTPException) -> Response:
    if error.code is None or error.code < 400:  # a redirect is no error
        return Response(error.get_body(), error.code, error.get_headers())
    fallback = Kind.BAD_REQUEST if error.code < 500 else Kind.INTERNAL
    allow = {name: value for name, value in error.get_headers() if name == "Allow"}
    return Problem(_HTTP_KINDS.get(error.code, fallback), error.description or error.name, allow).response()


def _internal_problem(error: Exception) -> Response:
    log.error("unforeseen error", exc_info=error)
    return Problem(Kind.INTERNAL, "an unforeseen error; the log tells more under this request's id").response()
