"""gunicorn's threaded worker, with an end to requests that never arrive."""

from __future__ import annotations

import socket
import sys
import time
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker  # type: ignore[import-untyped]

from serving.memory import Trimmer
from serving.settings import Settings


class Worker(ThreadWorker):  # type: ignore[misc]
    """A request whose head and body take longer than REQUEST_SECONDS is read no further, and an answer that is not
    taken in three times as long (one to be read, one to be found, one to be sent) is dropped.

    Without this, a few hundred clients that send a byte now and then, or do not read, would hold every thread.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seconds = Settings.from_env().request_seconds
        self._began: dict[TConn, float] = {}
        self._trimmer = Trimmer()

    def load_wsgi(self) -> None:
        """Load the application. The very first worker that cannot do it ends the start, with the reason.

        Any other ends by itself and is tried again: gunicorn would stop all workers, those that serve too.
        """
        try:
            super().load_wsgi()
        except Exception as error:
            if self.age == 1:
                raise
            self.log.exception("the worker cannot start and is tried again: %s", error)
            time.sleep(1)
            sys.exit(1)

    def handle(self, conn: TConn) -> object:
        """Serve one request (in a thread of the pool)."""
        self._began[conn] = time.monotonic()
        try:
            return super().handle(conn)
        finally:
            del self._began[conn]

    def notify(self) -> None:
        """gunicorn calls this about once a second: end what is overdue, and give memory back."""
        super().notify()
        self._trimmer.maybe()
        now = time.monotonic()
        for conn, began in list(self._began.items()):
            if now - began > 3 * self._seconds:
                self._shut(conn, socket.SHUT_RDWR)
            elif now - began > self._seconds:
                self._shut(conn, socket.SHUT_RD)  # to its thread, the client has hung up; it can still be answered

    def _shut(self, conn: TConn, how: int) -> None:
        try:
            conn.sock.shutdown(how)
        except OSError as error:  # it hung up by itself
            self.log.debug("overdue connection: %s", error)
