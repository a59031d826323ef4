"""POST /predict/file, /predict/files and /predict/url."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from flask import Flask, Response, g, jsonify, request
from flask_openapi3 import APIBlueprint

from serving.engine.engine import Verdict
from serving.fetch.policy import UrlError
from serving.inference.photo.errors import PhotoError
from serving.inference.verdict.rule import UNUSABLE
from serving.process import metrics
from serving.web import auth
from serving.web.form import read_photos
from serving.web.problems import Kind, Problem, as_problem
from serving.web.schemas import Answers, PhotoAnswer, UrlBody, body, form, problems
from serving.web.state import current

FORM, JSON = "multipart/form-data", "application/json"
FORM_OVERHEAD = 64 * 1024  # bytes of a body beside its one photo; also the most a JSON body may have
ROOM_SECONDS = 0.5  # for a fetch that was sent away to leave its place

SECURITY: list[dict[str, list[Any]]] = [{}, {"token": []}]  # a token is needed where API_TOKEN is set
_ONE: dict[Any, Any] = {200: PhotoAnswer} | problems(400, 401, 413, 415, 503)
_MANY: dict[Any, Any] = {200: Answers} | problems(400, 401, 413, 415, 503)
_FETCHED: dict[Any, Any] = {200: PhotoAnswer} | problems(400, 401, 413, 415, 422, 503)

PHOTO = body({FORM: form("A photo: JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF")})
_PHOTOS = body({FORM: form("Photos, in the order of their answers", minItems=1)})

files = APIBlueprint("files", __name__, abp_security=SECURITY)
urls = APIBlueprint("urls", __name__, abp_security=SECURITY)


@files.post("/predict/file", summary="One photo", responses=_ONE, openapi_extensions=PHOTO)
def predict_file() -> Response:
    """The verdict on one uploaded photo."""
    return _one(uploaded_one())


@files.post("/predict/files", summary="Several photos", responses=_MANY, openapi_extensions=_PHOTOS)
def predict_files() -> Response:
    """A list in the order of the photos; a bad one has a problem in its place, and the rest are answered."""
    photos, state = uploaded(), current()
    if len(photos) > (limit := state.settings.max_photos):
        raise Problem(Kind.TOO_MANY_PHOTOS, f"{len(photos)} photos; at most {limit} are taken at once")
    results = state.engine.predict(photos)
    g.verdicts = [as_problem(r).kind.name if isinstance(r, PhotoError) else r.label for r in results]
    return jsonify(
        [as_problem(result).body() if isinstance(result, PhotoError) else answer_to(result) for result in results]
    )


@urls.post("/predict/url", summary="A photo behind a URL", responses=_FETCHED)
def predict_url(body: UrlBody) -> Response:
    """The verdict on a photo that is fetched from a public URL."""
    with fetched([body.url]) as (photo,):
        if isinstance(photo, UrlError):
            raise photo
        return _one(photo)


def uploaded() -> list[bytes]:
    """The photos of a form, one or more. Raises Problem."""
    return read_photos(request.stream, request.mimetype_params.get("boundary", ""))


def uploaded_one() -> bytes:
    """The photo of a form that has one. Raises Problem."""
    photo, *others = uploaded()
    if others:
        raise Problem(Kind.BAD_REQUEST, f"file: {1 + len(others)} photos; one is read here, several at /predict/files")
    return photo


@contextmanager
def fetched(urls: Sequence[str]) -> Iterator[list[bytes | UrlError]]:
    """The photos behind URLs, or what is wrong with each: as many at once as there is place for, and accounted for
    until the end. Raises Problem where there is no place or no room."""
    state = current()
    if not state.fetching.acquire(blocking=False) and not (
        state.fetcher.resolver.make_room() and state.fetching.acquire(timeout=ROOM_SECONDS)
    ):
        raise Problem(Kind.OVERLOADED, "too many URLs are being fetched", reason="fetches")
    places = 1 + sum(state.fetching.acquire(blocking=False) for _ in urls[1:])
    with ExitStack() as held:

        def fetch(url: str) -> bytes | UrlError:
            try:
                with metrics.FETCH_SECONDS.time():
                    photo = state.fetcher.fetch(url)
            except UrlError as error:
                return type(error)(str(error))  # a new one: the traceback of this may hold a body
            if not state.bytes.take(len(photo)):
                raise Problem(Kind.OVERLOADED, f"no room now for {len(photo):,} more bytes", reason="bytes")
            held.callback(state.bytes.give, len(photo))
            return photo

        try:
            with ThreadPoolExecutor(places, "fetch") as pool:
                photos = list(pool.map(fetch, urls))
        finally:
            state.fetching.release(places)
        yield photos


@files.before_request
def _guard_files() -> None:
    settings, most = current().settings, current().settings.max_request_bytes
    if request.path == "/predict/file":
        most = min(settings.max_bytes + FORM_OVERHEAD, most)
    guard({FORM: most})


@urls.before_request
def _guard_urls() -> None:
    guard({JSON: FORM_OVERHEAD})


def guard(limits: Mapping[str, int]) -> None:
    """Before a body is read: the token, the body's type and its size, of which each type has a limit."""
    if request.method == "OPTIONS":
        return
    auth.require(current().settings.api_token)
    most = limits.get(request.mimetype)
    if most is None:
        raise Problem(Kind.UNSUPPORTED_MEDIA_TYPE, f"send {' or '.join(limits)}")
    if (request.content_length or 0) > most:
        raise Problem(Kind.TOO_MANY_BYTES, f"{request.content_length:,} bytes; at most {most:,} are read here")
    request.max_content_length = g.body_limit = most


def body_limit(app: Flask, environ: dict[str, Any]) -> int | None:
    """How many bytes of its body a request may have, as far as its head tells; None where no body is read."""
    with app.request_context(environ):
        try:
            app.preprocess_request()
        except Exception:  # whatever it is, it is the answer once the request is served, without its body
            return None
        limit: int | None = g.get("body_limit")
        return limit


def _one(photo: bytes) -> Response:
    result = current().engine.predict([photo])[0]
    if isinstance(result, PhotoError):
        return as_problem(result).response()  # raised, it would hold the photo in a circle with this frame
    g.verdicts = [result.label]
    return jsonify(answer_to(result))


def answer_to(verdict: Verdict) -> dict[str, Any]:
    """A verdict as it is sent; only here are numbers rounded, after the decision."""
    if verdict.label == UNUSABLE:
        return {"label": UNUSABLE, "reason": verdict.reason, "model": verdict.deployment.version}
    answer = {
        "label": verdict.label,
        "p_clean": round(verdict.p_clean, 6),
        "threshold": round(verdict.deployment.rule.t_clean, 6),
        "model": verdict.deployment.version,
    }
    return answer if verdict.audit is None else answer | {"audit": verdict.audit}
