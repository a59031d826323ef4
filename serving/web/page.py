"""GET /, /card, /docs and /openapi.json: page, model card, and the API's own description, without outside assets."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from flask import Blueprint, Response, current_app, jsonify, make_response, send_from_directory

from serving.inference.model.metadata import CARD
from serving.web import state
from serving.web.auth import guard_status
from serving.web.middleware import CSP
from serving.web.problems import Kind, Problem

SWAGGER = str(files("flask_openapi3_swagger") / "templates" / "swagger")

_PAGE = (Path(__file__).parent / "static/index.html").read_text()

pages = Blueprint("pages", __name__)
pages.before_request(guard_status)


@pages.get("/")
def index() -> Response:
    """The page that shows verdicts to people; it says first where the model in service knows drawn cars alone, and
    where photos are kept."""
    app = state.current()
    page = _PAGE
    if app.engine.deployment.predictor.metadata.trained_on_drawings:
        page = page.replace('id="drawn" hidden', 'id="drawn"')
    if app.settings.audit_dir is not None:
        page = page.replace('id="kept" hidden', 'id="kept"').replace("DAYS", str(app.settings.audit_days))
        page = page.replace("this service only, and are not kept.", "this service only.")
    return Response(page.replace("<body>", '<body data-explain="1">') if app.settings.explain else page)


@pages.get("/card")
def card() -> Response:
    """The model card that the model in service carries, in Markdown."""
    text = state.current().engine.deployment.predictor.properties.get(CARD)
    if text is None:
        raise Problem(Kind.NOT_FOUND, "the model in service carries no card")
    return Response(text, content_type="text/markdown; charset=utf-8")


@pages.get("/docs")
def docs() -> Response:
    """Swagger UI."""
    page = make_response(current_app.send_static_file("docs.html"))
    # It sets styles on its elements and draws its icons from data: URLs.
    page.headers["Content-Security-Policy"] = CSP.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
    return page


@pages.get("/docs/<path:name>")
def swagger(name: str) -> Response:
    """Swagger UI's own files, from its package."""
    return send_from_directory(SWAGGER, name)


@pages.get("/openapi.json")
def openapi() -> Response:
    """The OpenAPI document, made from the code of the paths."""
    return jsonify(current_app.api_doc)  # type: ignore[attr-defined]
