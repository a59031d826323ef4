"""POST /predict/car: one verdict on several photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Response, g, jsonify, request
from flask_openapi3 import APIBlueprint, validate_request

from serving.engine.cars import judge
from serving.engine.engine import Verdict
from serving.fetch.policy import UrlError
from serving.process import metrics
from serving.verdict.rule import UNUSABLE
from serving.web.predict import FORM, FORM_OVERHEAD, JSON, SECURITY, answer_to, fetched, guard
from serving.web.problems import as_problem
from serving.web.schemas import CarAnswer, CarForm, CarUrls, problems
from serving.web.state import current

_PATH, _SUMMARY = "/predict/car", "One car, in several photos"
_CAR: dict[Any, Any] = {200: CarAnswer} | problems(400, 401, 413, 415, 503)
_BODIES = {
    FORM: {"schema": CarForm.model_json_schema(), "encoding": {"file": {"style": "form", "explode": True}}},
    JSON: {"schema": CarUrls.model_json_schema()},
}

# One or the other is registered: they differ in whether URLs are taken, and so described.
uploaded_cars = APIBlueprint("uploaded_cars", __name__, abp_security=SECURITY)
cars = APIBlueprint("cars", __name__, abp_security=SECURITY)


@uploaded_cars.post(_PATH, summary=_SUMMARY, responses=_CAR)
@validate_request()  # type: ignore[untyped-decorator]
def predict_uploaded_car(form: CarForm) -> Response:
    """One verdict on a car: clean if its dirtiest view is. What is not shown is not judged."""
    return _judge([part.read() for part in form.file])


@validate_request()  # type: ignore[untyped-decorator]
def _predict_fetched_car(body: CarUrls) -> Response:
    with fetched(body.urls) as photos:
        return _judge(photos)


@cars.post(
    _PATH, summary=_SUMMARY, responses=_CAR, openapi_extensions={"requestBody": {"content": _BODIES, "required": True}}
)
def predict_car() -> Response:
    """One verdict on a car: clean if its dirtiest view is. What is not shown, or not fetched, is not judged."""
    return _predict_fetched_car() if request.mimetype == JSON else predict_uploaded_car()  # type: ignore[no-any-return]


@uploaded_cars.before_request
@cars.before_request
def _guard() -> None:
    settings = current().settings
    guard({FORM: settings.max_request_bytes} | ({JSON: FORM_OVERHEAD} if settings.url_fetch else {}))


def _judge(photos: Sequence[bytes | UrlError]) -> Response:
    state = current()
    scored = iter(state.engine.predict([photo for photo in photos if isinstance(photo, bytes)]))
    results = [(b"", photo) if isinstance(photo, UrlError) else (photo, next(scored)) for photo in photos]
    views = [
        answer_to(photo, result) if isinstance(result, Verdict) else as_problem(result).body()
        for photo, result in results
    ]
    verdicts = [result for _, result in results if isinstance(result, Verdict)]
    usable = [verdict.p_clean for verdict in verdicts if verdict.label != UNUSABLE]
    deployment = verdicts[0].deployment if verdicts else state.engine.deployment
    answer: dict[str, Any]
    if len(usable) < state.settings.min_views:
        answer = {"label": UNUSABLE, "reason": "too_few_views", "certified": False}
    else:
        car = judge(usable, deployment.predictor.threshold, deployment.rule)
        answer = car._asdict() | {"p_clean": round(car.p_clean, 6), "threshold": round(car.threshold, 6)}
    g.verdicts = [answer["label"]]
    metrics.CARS.labels(answer["label"]).inc()
    return jsonify(answer | {"model": deployment.version, "views": views})
