"""What happens around every request: its id, its log line, its metrics, and headers that keep a browser safe."""

from __future__ import annotations

import logging
import time
from functools import cached_property
from typing import IO, Any, cast

import flask
from flask import Flask, Response, g, request
from werkzeug.exceptions import BadRequest
from werkzeug.middleware.proxy_fix import ProxyFix

from serving.process import metrics
from serving.process.logs import request_id

log = logging.getLogger("serving.request")

ARRIVED = "dirtycar.arrived"  # key of a WSGI environment: when the request was complete, by the monotonic clock
CSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'"
_HEADERS = {
    "Content-Security-Policy": f"{CSP}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Request(flask.Request):
    """A request whose body is the front's."""

    @cached_property
    def stream(self) -> IO[bytes]:
        """The body; as the front has it where that ends by itself and is no longer than may be read."""
        length, most = self.content_length, self.max_content_length
        if "wsgi.input_terminated" in self.environ and length is not None and (most is None or length <= most):
            return cast(IO[bytes], self.environ["wsgi.input"])
        return super().stream

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """As Flask's; JSON nested too deeply for Python's parser is a bad request like all that is not understood."""
        try:
            return super().get_json(force, silent, cache)
        except RecursionError:
            raise BadRequest("the JSON is nested too deeply") from None


def register(app: Flask, proxies: int) -> None:
    """Put it around every request of an app. `proxies`: how many in front of it name the client in X-Forwarded-For."""
    if proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=0, x_host=0)  # type: ignore[method-assign]
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    g.started = request.environ.get(ARRIVED, time.monotonic())
    g.request_id = request_id(request.headers.get("X-Request-ID"))


def _end(response: Response) -> Response:
    seconds = time.monotonic() - g.started
    response.headers["X-Request-ID"] = g.request_id
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    # Paths that lead nowhere share a label: a scanner must not fill the memory with series.
    path = request.url_rule.rule if request.url_rule else "other"
    metrics.REQUESTS.labels(path, response.status_code).inc()
    metrics.LATENCY.labels(path).observe(seconds)
    if log.isEnabledFor(logging.INFO):
        fields = {
            "client": request.remote_addr,
            "method": request.method,
            "path": request.path[:200],
            "status": response.status_code,
            "ms": round(seconds * 1000, 1),
            "received": request.content_length,
            "sent": response.content_length,
        }
        if "verdicts" in g:
            fields["verdict"] = ",".join(g.verdicts)
        if "problem" in g:
            fields["problem"] = g.problem.name
        log.info("request", extra={"fields": fields})
    return response
