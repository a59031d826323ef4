"""What a request is answered with: the application's answer, from a thread that it has a right to, or a refusal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from flask import Flask
from gunicorn.http import errors as http_errors  # type: ignore[import-untyped]
from gunicorn.http import wsgi

from serving.front.connection import Connection
from serving.process import metrics
from serving.web import state
from serving.web.middleware import ARRIVED
from serving.web.predict import body_limit
from serving.web.problems import Kind, raw_response
from serving.web.state import Budget

log = logging.getLogger(__name__)

STATUS_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
_PHOTO_THREADS = 64  # more would only wait for Python's lock, and others for theirs to be done with it
_QUICK_THREADS = 4

_KINDS: dict[type[Exception], Kind] = {
    http_errors.LimitRequestLine: Kind.URI_TOO_LONG,
    http_errors.LimitRequestHeaders: Kind.HEAD_TOO_LARGE,
    http_errors.ExpectationFailed: Kind.EXPECTATION_FAILED,
    http_errors.UnsupportedTransferCoding: Kind.TRANSFER_CODING_UNKNOWN,
}


class Lane:
    """Threads for one purpose, and places for requests that they work on or that wait for them."""

    def __init__(self, threads: int, places: int) -> None:
        self._threads = ThreadPoolExecutor(threads)
        self._places = Budget(places)

    def submit(self, work: Callable[[], bool]) -> Future[bool] | None:
        """Have a thread do something; None if there is no place left."""
        if not self._places.take(1):
            return None
        future = self._threads.submit(work)
        future.add_done_callback(lambda _: self._places.give(1))
        return future

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Handler:
    """Answers the requests of one process; `only` those for some paths. Called in the event loop, all but
    the work in the threads is quick."""

    def __init__(self, cfg: Any, app: Flask, alive: Callable[[], bool], only: frozenset[str] = frozenset()) -> None:
        self._cfg, self._app, self._alive, self._only = cfg, app, alive, only
        settings = state.of(app).settings
        photos = settings.queue + settings.url_concurrency
        self._photos = Lane(min(photos, _PHOTO_THREADS + settings.url_concurrency), photos)
        self._pages = Lane(_QUICK_THREADS, settings.connections)
        self._status = Lane(_QUICK_THREADS, settings.connections)

    def close(self) -> None:
        """Begin nothing more."""
        for lane in (self._photos, self._pages, self._status):
            lane.close()

    def body_limit(self, connection: Connection) -> int | None:
        """How many bytes of a body may come, as far as the head tells; None if it is answered without them."""
        if self._only:
            return None
        _, environ = wsgi.create(connection.request, connection.sock, connection.client, connection.server, self._cfg)
        return body_limit(self._app, environ)

    def start(self, connection: Connection) -> Future[bool] | None:
        """Have a thread answer; None if there is no place for it. Photos, pages and probes do not wait for each other.
        The future tells whether the connection may stay open."""
        request = connection.request
        assert request is not None
        lane = self._photos if request.method == "POST" and connection.complete else self._pages
        return (self._status if request.path in STATUS_PATHS else lane).submit(partial(self._work, connection))

    def _work(self, connection: Connection) -> bool:
        """Answer, and send as much as the client takes at once."""
        keep = self._serve(connection)
        connection.sock.flush(connection.real)
        return keep

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
        connection.sock.sendall(raw_response(kind, detail))

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
            connection.sock.clear()  # nothing of an answer has left yet
            self.refuse(connection, error)
            return False

    def _answer(self, connection: Connection) -> bool:
        request, sock = connection.request, connection.sock
        response, environ = wsgi.create(request, sock, connection.client, connection.server, self._cfg)
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
