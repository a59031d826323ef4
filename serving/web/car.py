"""POST /predict/car: one verdict on several photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Response, g, jsonify, request
from flask_openapi3 import APIBlueprint

from serving.engine.cars import judge
from serving.engine.engine import Verdict
from serving.fetch.policy import UrlError
from serving.inference.photo.errors import DecodersBusy
from serving.inference.verdict.rule import UNUSABLE
from serving.process import metrics
from serving.web.predict import FORM, FORM_OVERHEAD, JSON, SECURITY, answer_to, fetched, guard, uploaded
from serving.web.problems import Kind, Problem, as_problem
from serving.web.schemas import MAX_VIEWS, CarAnswer, CarUrls, body, form, problems
from serving.web.state import current

_CAR: dict[Any, Any] = {200: CarAnswer} | problems(400, 401, 413, 415, 503)


def cars(*, fetch: bool) -> APIBlueprint:
    """The path; `fetch`: whether URLs are taken."""
    cars = APIBlueprint("cars", __name__, abp_security=SECURITY)
    bodies = {FORM: form("Photos of one car, from several sides", minItems=1, maxItems=MAX_VIEWS)}
    bodies |= {JSON: CarUrls.model_json_schema()} if fetch else {}

    @cars.before_request
    def _guard() -> None:
        guard({FORM: current().settings.max_request_bytes} | ({JSON: FORM_OVERHEAD} if fetch else {}))

    summary = "One car, in several photos"
    cars.post("/predict/car", summary=summary, responses=_CAR, openapi_extensions=body(bodies))(predict_car)
    return cars


def predict_car() -> Response:
    """One verdict on a car: clean if its dirtiest view is. What is not shown, or not fetched, is not judged."""
    if request.mimetype == JSON:
        with fetched(CarUrls.model_validate(request.get_json(silent=True)).urls) as photos:
            return _judge(photos)
    views = uploaded()
    if len(views) > MAX_VIEWS:
        raise Problem(Kind.BAD_REQUEST, f"file: {len(views)} photos; at most {MAX_VIEWS} of a car")
    return _judge(views)


def _judge(photos: Sequence[bytes | UrlError]) -> Response:
    state = current()
    sent = list(dict.fromkeys(photo for photo in photos if isinstance(photo, bytes)))
    scored = dict(zip(sent, state.engine.predict(sent), strict=True))
    if busy := next((result for result in scored.values() if isinstance(result, DecodersBusy)), None):
        return as_problem(busy).response()  # a car is not judged without a view that was sent
    # A photo sent twice is one view: a second one would lower the threshold and show nothing more.
    results = [photo if isinstance(photo, UrlError) else scored.pop(photo, None) for photo in photos]
    verdicts = [result for result in results if isinstance(result, Verdict)]
    usable = [verdict.p_clean for verdict in verdicts if verdict.label != UNUSABLE]
    deployment = verdicts[0].deployment if verdicts else state.engine.deployment
    views = [_view(result, deployment.version) for result in results]
    answer: dict[str, Any]
    if len(usable) < state.settings.min_views:
        answer = {"label": UNUSABLE, "reason": "too_few_views", "certified": False}
    else:
        car = judge(usable, deployment.predictor.threshold, deployment.rule)
        answer = car._asdict() | {"p_clean": round(car.p_clean, 6), "threshold": round(car.threshold, 6)}
    g.verdicts = [answer["label"]]
    metrics.CARS.labels(answer["label"]).inc()
    return jsonify(answer | {"model": deployment.version, "views": views})


def _view(result: Verdict | Exception | None, version: str) -> dict[str, Any]:
    """The answer for one photo; None: it is a copy of one before."""
    if result is None:
        metrics.VERDICTS.labels(UNUSABLE).inc()
        metrics.UNUSABLE.labels("copy").inc()
        return {"label": UNUSABLE, "reason": "copy", "model": version}
    return answer_to(result) if isinstance(result, Verdict) else as_problem(result).body()
