"""What a request is answered with: the application's answer, from a thread that it has a right to, or a refusal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flask import Flask
from gunicorn.http import errors as http_errors  # type: ignore[import-untyped]
from gunicorn.http import wsgi

from serving.engine.budget import Budget
from serving.front.connection import Connection
from serving.process import metrics
from serving.web import state
from serving.web.middleware import ARRIVED
from serving.web.predict import body_limit
from serving.web.problems import Kind, raw_response

log = logging.getLogger(__name__)

PROBE_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
_PHOTO_THREADS = 64  # more would only wait for the GIL, and others for theirs to be done with it
_PAGE_THREADS = 1  # none of them waits for anything: with more, a crowd would take more of the GIL from photos
_STATUS_THREADS = 4  # a self-check may hold one
_LIMITS = 256  # limits of bodies that are remembered

_KINDS: dict[type[Exception], Kind] = {
    http_errors.LimitRequestLine: Kind.URI_TOO_LONG,
    http_errors.LimitRequestHeaders: Kind.HEAD_TOO_LARGE,
    http_errors.ExpectationFailed: Kind.EXPECTATION_FAILED,
    http_errors.UnsupportedTransferCoding: Kind.TRANSFER_CODING_UNKNOWN,
}


class Handler:
    """Answers the requests of one process; `only` those for some paths. Photos, pages and probes have threads of
    their own. Called in the event loop, all but the work in the threads is quick."""

    def __init__(self, cfg: Any, app: Flask, alive: Callable[[], bool], only: frozenset[str] = frozenset()) -> None:
        self._cfg, self._app, self._alive, self._only = cfg, app, alive, only
        settings = state.of(app).settings
        photos = settings.queue + settings.url_concurrency
        self._places = Budget(photos)  # for photos; of all others, each connection has one at a time
        self._photos = ThreadPoolExecutor(min(photos, _PHOTO_THREADS + settings.url_concurrency))
        self._pages = ThreadPoolExecutor(_PAGE_THREADS)
        self._status = ThreadPoolExecutor(_STATUS_THREADS)
        self._limits: dict[tuple[str | None, ...], int] = {}

    def close(self) -> None:
        for threads in (self._photos, self._pages, self._status):
            threads.shutdown(wait=False, cancel_futures=True)

    def body_limit(self, connection: Connection) -> int | None:
        """How many bytes of a body may come, as far as the head tells; None if it is answered without them."""
        if self._only:
            return None
        environ = self._exchange(connection)[1]
        kind = environ.get("CONTENT_TYPE", "").partition(";")[0]
        # What the answer depends on, beside the length. Asking the application takes the event loop 0.13 ms.
        asked = (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_AUTHORIZATION"), kind)
        most = self._limits.get(asked)
        if most is None or int(environ.get("CONTENT_LENGTH") or 0) > most:
            most = body_limit(self._app, environ)
            if most is not None and len(self._limits) < _LIMITS:
                self._limits[asked] = most
        return most

    def start(self, connection: Connection, done: Callable[[bool | None], None]) -> bool:
        """Have a thread answer; False if there is no place for it. The thread calls `done` with whether the connection
        may stay open, None if it is gone."""
        request = connection.request
        assert request is not None
        if request.path in PROBE_PATHS:
            self._status.submit(self._work, connection, done)
        elif request.method != "POST" or not connection.complete:
            self._pages.submit(self._work, connection, done)
        elif self._places.take(1):
            self._photos.submit(self._work_on_photo, connection, done)
        else:
            return False
        return True

    def refuse(self, connection: Connection, reason: Exception | Kind) -> None:
        """Answer what is no request, or comes to nothing."""
        if isinstance(reason, Kind):
            kind, detail = reason, reason.title
        elif isinstance(reason, http_errors.ParseException):
            kind = next((kind for error, kind in _KINDS.items() if isinstance(reason, error)), Kind.BAD_REQUEST)
            detail = str(reason)
            log.warning("invalid request from %s: %s", connection.address, detail[:200])
        else:
            kind, detail = Kind.INTERNAL, "an unforeseen error"
            log.error("unforeseen error", exc_info=reason)
        metrics.REQUESTS.labels("other", kind.status).inc()
        if kind.status == 503:
            metrics.UNAVAILABLE.labels("front").inc()
        connection.outbox.sendall(raw_response(kind, detail))

    def _exchange(self, connection: Connection) -> tuple[Any, dict[str, Any]]:
        if connection.exchange is None:
            connection.exchange = wsgi.create(
                connection.request, connection.outbox, connection.client, connection.server, self._cfg
            )
        return connection.exchange

    def _work_on_photo(self, connection: Connection, done: Callable[[bool | None], None]) -> None:
        try:
            self._work(connection, done)
        finally:
            self._places.give(1)

    def _work(self, connection: Connection, done: Callable[[bool | None], None]) -> None:
        """Answer, and send as much as the client takes at once."""
        keep = None
        try:
            keep = self._serve(connection)
            connection.outbox.flush(connection.sock)
        except OSError as error:
            log.debug("a client is gone: %s", error)
            keep = None
        finally:
            done(keep)

    def _serve(self, connection: Connection) -> bool:
        request = connection.request
        assert request is not None
        metrics.RECEIVE_SECONDS.observe(connection.since - connection.began)
        metrics.THREAD_WAIT.observe(time.monotonic() - connection.since)
        if self._only and request.path not in self._only:
            self.refuse(connection, Kind.NOT_FOUND)
            return False
        try:
            return self._answer(connection)
        except Exception as error:  # of gunicorn; the application answers its own
            connection.outbox.clear()  # nothing of an answer has left yet
            self.refuse(connection, error)
            return False

    def _answer(self, connection: Connection) -> bool:
        response, environ = self._exchange(connection)
        environ |= {"wsgi.multithread": True, ARRIVED: connection.since}
        if not self._alive() or not connection.complete:
            response.force_close()
        body = self._app(environ, response.start_response)
        try:
            if isinstance(body, environ["wsgi.file_wrapper"]):
                response.write_file(body)
            else:
                for part in body:
                    response.write(part)
            response.close()
        finally:
            if hasattr(body, "close"):
                body.close()
        return not response.should_close()
