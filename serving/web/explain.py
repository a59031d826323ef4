"""POST /explain/file: where in a photo its verdict comes from. Off the hot path: one at a time in each process."""

from __future__ import annotations

import base64
import io
import threading
import time
from typing import Any, Literal

import numpy as np
from flask import Response, g, jsonify
from flask_openapi3 import APIBlueprint
from numpy.typing import NDArray
from PIL import Image

from serving.engine.deployment import Deployment
from serving.engine.engine import DECODE_SHARE
from serving.explain import GRID, occlusion, overlay
from serving.web.predict import FORM, FORM_OVERHEAD, PHOTO, SECURITY, guard, uploaded_one
from serving.web.problems import Kind, Problem
from serving.web.schemas import ExplainQuery, Explanation, problems
from serving.web.state import current

SIDE = 640  # pixels of the overlay, a square, as the network sees the photo
CAUTION = "The map shows where the score comes from, not that the reason is right."

Method = Literal["occlusion", "cam"]

_RESPONSES: dict[Any, Any] = {200: Explanation} | problems(400, 401, 413, 415, 503)
_place = threading.BoundedSemaphore(1)

explain = APIBlueprint("explain", __name__, abp_security=SECURITY)


@explain.before_request
def _guard() -> None:
    settings = current().settings
    guard({FORM: min(settings.max_bytes + FORM_OVERHEAD, settings.max_request_bytes)})


@explain.post("/explain/file", summary="Where a verdict comes from", responses=_RESPONSES, openapi_extensions=PHOTO)
def explain_file(query: ExplainQuery) -> Response:
    """What each part of a photo adds to the logit of clean, as numbers and as a picture over the photo."""
    settings, deployment = current().settings, current().engine.deployment
    if query.method == "cam" and not deployment.predictor.gives_map:
        raise Problem(Kind.BAD_REQUEST, f"{deployment.version} has no map of its own; method=occlusion explains it")
    photo = uploaded_one()
    if not _place.acquire(blocking=False):
        raise Problem(Kind.OVERLOADED, "another photo is being explained", reason="explanations")
    try:
        found, deadline = deployment.header(photo), time.monotonic() + settings.request_seconds * DECODE_SHARE
        pixels = deployment.pixels(photo, found, deadline=deadline)
        scores = deployment.predictor.scores(pixels[None])[0].tolist()
        method, grid = _explained(deployment, pixels, query.method)
        shown = Image.fromarray(deployment.pixels(photo, found, size=SIDE, deadline=deadline))
        buffer = io.BytesIO()
        overlay(shown, grid).save(buffer, "PNG")
    finally:
        _place.release()
    g.verdicts = [deployment.judge(scores, found).label]
    answer = Explanation(
        label=g.verdicts[0],
        p_clean=round(scores[0], 6),
        model=deployment.version,
        method=method,
        grid=[[round(cell, 4) for cell in row] for row in grid.tolist()],
        overlay="data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(),
        caution=CAUTION,
    )
    return jsonify(answer.model_dump())


def _explained(
    deployment: Deployment, pixels: NDArray[np.uint8], method: Method | None
) -> tuple[Method, NDArray[np.float64]]:
    """By the method that was asked for, or the best; rows of cells."""
    predictor = deployment.predictor
    if method != "occlusion" and predictor.gives_map:
        grid = predictor.map(pixels[None])[0].astype(np.float64)
        if method == "cam" or min(grid.shape) >= GRID:
            return "cam", grid
    return "occlusion", occlusion(lambda images: _logit(predictor.p_clean(images)), pixels, deployment.max_batch)


def _logit(p_clean: NDArray[np.float32]) -> NDArray[np.float64]:
    p = np.clip(p_clean.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(np.log(p / (1 - p)), dtype=np.float64)
