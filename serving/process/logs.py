"""Logs as one JSON object a line, and the id that ties a request's lines together."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import stat
from datetime import UTC, datetime
from typing import Any

from flask import g, has_app_context

from serving.process.metrics import LOG_LINES_DROPPED

_STDERR = 2
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id(offered: str | None) -> str:
    """The client's own X-Request-ID where it is harmless in a log and a header, else a new one."""
    return offered if offered is not None and _REQUEST_ID.fullmatch(offered) else os.urandom(16).hex()


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; what was logged as `extra={"fields": {...}}` becomes keys of its own."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if has_app_context() and "request_id" in g:
            line["id"] = g.request_id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class LineHandler(logging.Handler):
    """Writes lines to standard error. One that cannot be written now is dropped and counted: a full disk, or a pipe
    that nobody empties, is no reason to let requests fail or wait."""

    def __init__(self) -> None:
        super().__init__()
        self._file = _standard_error()
        self._torn = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as one line; the rest of a line that was torn stays away from the next."""
        line = ("\n" * self._torn + self.format(record) + "\n").encode(errors="backslashreplace")
        try:
            written = os.write(self._file, line)
        except OSError:
            written = 0
        if written < len(line):
            self._torn = self._torn or written > 0
            LOG_LINES_DROPPED.inc()
        else:
            self._torn = False


def _standard_error() -> int:
    """A descriptor for lines to standard error. Where that is a pipe, it never waits: it is opened anew, as whether to
    wait is a property of the opened file, which others share."""
    if stat.S_ISFIFO(os.fstat(_STDERR).st_mode):
        with contextlib.suppress(OSError):  # no /proc, or a pipe of another user: then it waits
            return os.open(f"/proc/self/fd/{_STDERR}", os.O_WRONLY | os.O_NONBLOCK)
    return os.dup(_STDERR)


def config(level: str) -> dict[str, Any]:
    """A logging configuration that sends everything to standard error as JSON, gunicorn's own lines too."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter}},
        "handlers": {"stderr": {"()": LineHandler, "formatter": "json"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {"level": level, "handlers": [], "propagate": True},
            "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
            # These tell at DEBUG what a URL fetch sends, query string and all.
            "httpcore": {"level": "WARNING"},
            "PIL": {"level": "WARNING"},
        },
    }
