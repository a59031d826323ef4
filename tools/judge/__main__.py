"""`make judge AUDIT_DIR=audit`: a page on which people judge kept photos, by keyboard or touch.

Each judgement is added to judgements.csv (columns photo, verdict, judge, share, model, judged_at) before the next photo
is shown, the oldest photo first. With --judges 2 every photo is shown to two people; neither sees the other's verdict.
"""

import argparse
import io
import logging
import sys
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request, send_from_directory
from werkzeug.exceptions import BadRequest, NotFound
from werkzeug.serving import make_server

from serving.audit.auditor import AuditStore, open_store
from serving.audit.kept import parse
from serving.inference.photo.decode import open_photo, upright_rgb
from serving.inference.photo.errors import PhotoError
from serving.inference.verdict.errors import UserError
from stages.common.base.errors import run_stage
from tools.audit_promise.judgements import VERDICTS
from tools.judge.book import Book

SIDE = 1600  # pixels of a photo as it is shown, at most
LOCAL = ("127.0.0.1", "localhost")
AHEAD = 3  # photos that a browser loads before their turn
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"


def create_app(store: AuditStore, book: Book, judges: int, hosts: list[str] | None) -> Flask:
    """The page's application. `hosts`: the only names it answers to, so that no other site's page can reach it."""
    app = Flask(__name__, static_folder="static")
    app.config["TRUSTED_HOSTS"] = hosts

    @app.after_request
    def secure(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = f"{POLICY}; frame-ancestors 'none'"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.errorhandler(OSError)
    @app.errorhandler(UserError)
    def told(error: Exception) -> tuple[str, int, dict[str, str]]:
        return str(error), 503, {"Content-Type": "text/plain; charset=utf-8"}  # a full disk, a store that is down

    @app.get("/")
    def index() -> Response:
        return send_from_directory(str(app.static_folder), "judge.html")

    @app.get("/next")
    def following() -> Response:
        judge = _judge(request.args.get("judge"))
        left = book.left(list(store.names()), judge, judges)
        return jsonify(photos=left[:AHEAD], left=len(left))

    @app.get("/photo/<path:name>")
    def photo(name: str) -> Response:
        ahead = {"Cache-Control": "private, max-age=3600"}  # a browser may keep what it loads before its turn
        return Response(_jpeg(_kept(store, name)), mimetype="image/jpeg", headers=ahead)

    @app.post("/judgement")
    def judgement() -> Response:
        body = request.get_json()  # a form of another site cannot send this type
        if not isinstance(body, dict) or body.get("verdict") not in VERDICTS or parse(str(body.get("photo"))) is None:
            raise BadRequest(f"send photo, judge and verdict: {', '.join(VERDICTS)}")
        book.add(body["photo"], _judge(body.get("judge")), body["verdict"])
        return jsonify(saved=True)

    return app


def _judge(name: Any) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > 80 or not name.isprintable():
        raise BadRequest("who judges?")
    return name.strip()


def _kept(store: AuditStore, name: str) -> bytes:
    """The bytes of a kept photo, and of no other file."""
    if parse(name) is None:
        raise NotFound
    try:
        return store.get(name)
    except (OSError, UserError) as error:  # deleted meanwhile, or a remote store that does not answer
        raise NotFound(f"{name} cannot be read: {error}") from error


def _jpeg(data: bytes) -> bytes:
    """A photo as any browser shows it, upright."""
    try:
        image = upright_rgb(open_photo(data), SIDE)
    except PhotoError as error:
        raise NotFound(str(error)) from error
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.judge", description=__doc__)
    parser.add_argument("audit_dir", help="where the service keeps photos: its AUDIT_DIR")
    parser.add_argument("--out", type=Path, default=Path("judgements.csv"))
    parser.add_argument("--judges", type=int, default=1, help="people who judge each photo (1)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; others than yourself can then judge")
    parser.add_argument("--port", type=int, default=8002)
    args = parser.parse_args(arguments)
    if args.judges < 1:
        parser.error("--judges is 1 or more")
    store = open_store(args.audit_dir)
    hosts = list(LOCAL) if args.host in LOCAL else None
    app = create_app(store, Book(args.out), args.judges, hosts)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # no line for each request
    server = make_server(args.host, args.port, app, threaded=True)
    print(f"Judge on http://{args.host}:{server.port} ; judgements go to {args.out}. Ctrl-C ends it.", file=sys.stderr)
    server.serve_forever()


if __name__ == "__main__":
    run_stage("judge", main)
