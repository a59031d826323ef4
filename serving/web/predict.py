"""POST /predict/file, /predict/files, /predict/car and /predict/url."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, g, jsonify, request
from flask_openapi3 import APIBlueprint

from serving.engine.cars import judge
from serving.engine.engine import Verdict
from serving.photo.errors import PhotoError
from serving.process import metrics
from serving.verdict.rule import CLEAN, NO_CAR, UNUSABLE
from serving.web import auth
from serving.web.problems import Kind, Problem, as_problem
from serving.web.schemas import Answers, CarAnswer, CarForm, PhotoAnswer, PhotoForm, PhotosForm, UrlBody, problems
from serving.web.state import current

FORM_OVERHEAD = 64 * 1024  # bytes of a body beside its one photo; also the most a JSON body may have
ROOM_SECONDS = 0.5  # for a fetch that was sent away to leave its place

SECURITY: list[dict[str, list[Any]]] = [{}, {"token": []}]  # a token is needed where API_TOKEN is set
_ONE: dict[Any, Any] = {200: PhotoAnswer} | problems(400, 401, 413, 415, 503)
_MANY: dict[Any, Any] = {200: Answers} | problems(400, 401, 413, 415, 503)
_CAR: dict[Any, Any] = {200: CarAnswer} | problems(400, 401, 413, 415, 503)
_FETCHED: dict[Any, Any] = {200: PhotoAnswer} | problems(400, 401, 413, 415, 422, 503)

files = APIBlueprint("files", __name__, abp_security=SECURITY)
urls = APIBlueprint("urls", __name__, abp_security=SECURITY)


@files.post("/predict/file", summary="One photo", responses=_ONE)
def predict_file(form: PhotoForm) -> Response:
    """The verdict on one uploaded photo."""
    return _one(form.file.read())


@files.post("/predict/files", summary="Several photos", responses=_MANY)
def predict_files(form: PhotosForm) -> Response:
    """A list in the order of the photos; a bad one has a problem in its place, and the rest are answered."""
    limit = current().settings.max_photos
    if len(form.file) > limit:
        raise Problem(Kind.TOO_MANY_PHOTOS, f"{len(form.file)} photos; at most {limit} are taken at once")
    photos = [part.read() for part in form.file]
    results = current().engine.predict(photos)
    g.verdicts = [as_problem(r).kind.name if isinstance(r, PhotoError) else r.label for r in results]
    return jsonify(
        [
            as_problem(result).body() if isinstance(result, PhotoError) else _answer(photo, result)
            for photo, result in zip(photos, results, strict=True)
        ]
    )


@files.post("/predict/car", summary="One car, in several photos", responses=_CAR)
def predict_car(form: CarForm) -> Response:
    """One verdict on a car: clean if its dirtiest view is. What is not shown is not judged."""
    photos, state = [part.read() for part in form.file], current()
    results = state.engine.predict(photos)
    usable = [r for r in results if isinstance(r, Verdict) and r.label != UNUSABLE]
    deployment = next((r.deployment for r in results if isinstance(r, Verdict)), state.engine.deployment)
    views = [
        as_problem(result).body() if isinstance(result, PhotoError) else _answer(photo, result)
        for photo, result in zip(photos, results, strict=True)
    ]
    answer: dict[str, Any]
    if len(usable) < state.settings.min_views:
        answer = {"label": UNUSABLE, "reason": "too_few_views", "certified": False}
    else:
        car = judge([r.p_clean for r in usable], deployment.predictor.threshold, deployment.rule)
        answer = car._asdict() | {"p_clean": round(car.p_clean, 6), "threshold": round(car.threshold, 6)}
    g.verdicts = [answer["label"]]
    metrics.CARS.labels(answer["label"]).inc()
    return jsonify(answer | {"model": deployment.version, "views": views})


@urls.post("/predict/url", summary="A photo behind a URL", responses=_FETCHED)
def predict_url(body: UrlBody) -> Response:
    """The verdict on a photo that is fetched from a public URL."""
    state = current()
    if not state.fetching.acquire(blocking=False) and not (
        state.fetcher.resolver.make_room() and state.fetching.acquire(timeout=ROOM_SECONDS)
    ):
        raise Problem(Kind.OVERLOADED, "too many URLs are being fetched", reason="fetches")
    try:
        with metrics.FETCH_SECONDS.time():
            photo = state.fetcher.fetch(body.url)
    finally:
        state.fetching.release()
    if not state.bytes.take(len(photo)):
        raise Problem(Kind.OVERLOADED, f"the requests under way leave no room for {len(photo):,} bytes", reason="bytes")
    try:
        return _one(photo)
    finally:
        state.bytes.give(len(photo))


@files.before_request
def _guard_files() -> None:
    settings, most = current().settings, current().settings.max_request_bytes
    if request.path == "/predict/file":
        most = min(settings.max_bytes + FORM_OVERHEAD, most)
    guard("multipart/form-data", most)


@urls.before_request
def _guard_urls() -> None:
    guard("application/json", FORM_OVERHEAD)


def guard(mimetype: str, most: int) -> None:
    """Before a body is read: the token, the body's type and its size."""
    if request.method == "OPTIONS":
        return
    auth.require(current().settings.api_token)
    if request.mimetype != mimetype:
        raise Problem(Kind.UNSUPPORTED_MEDIA_TYPE, f"send {mimetype}")
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
    return jsonify(_answer(photo, result))


def _answer(photo: bytes, verdict: Verdict) -> dict[str, Any]:
    """A verdict as it is sent; only here are numbers rounded, after the decision."""
    if verdict.label == UNUSABLE:
        return {"label": UNUSABLE, "reason": NO_CAR, "model": verdict.deployment.version}
    answer = {
        "label": verdict.label,
        "p_clean": round(verdict.p_clean, 6),
        "threshold": round(verdict.deployment.rule.t_clean, 6),
        "model": verdict.deployment.version,
    }
    if (auditor := current().auditor) is not None:
        answer["audit"] = verdict.label == CLEAN and auditor.mark(photo, verdict.p_clean, verdict.deployment.version)
    return answer
