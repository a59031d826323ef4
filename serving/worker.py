"""gunicorn's threaded worker, with an end to requests that never arrive."""

from __future__ import annotations

import socket
import time
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker  # type: ignore[import-untyped]

from serving.settings import Settings


class Worker(ThreadWorker):  # type: ignore[misc]
    """A request whose head and body take longer than REQUEST_SECONDS is read no further.

    Without this, a few hundred clients that send a byte now and then would hold every thread.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seconds = Settings.from_env().request_seconds
        self._deadlines: dict[TConn, float] = {}

    def handle(self, conn: TConn) -> object:
        """Serve one request (in a thread of the pool)."""
        self._deadlines[conn] = time.monotonic() + self._seconds
        try:
            return super().handle(conn)
        finally:
            del self._deadlines[conn]

    def notify(self) -> None:
        """gunicorn calls this about once a second: end what is overdue."""
        super().notify()
        now = time.monotonic()
        for conn, deadline in list(self._deadlines.items()):
            if now > deadline:
                self._stop_reading(conn)

    def _stop_reading(self, conn: TConn) -> None:
        """To its thread, the client has hung up; an answer that is under way can still be sent."""
        try:
            conn.sock.shutdown(socket.SHUT_RD)
        except OSError as error:  # it hung up by itself
            self.log.debug("overdue connection: %s", error)
