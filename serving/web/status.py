"""GET /healthz, /readyz, /model and /metrics: what the service says of itself."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from flask import Response, jsonify
from flask_openapi3 import APIBlueprint
from prometheus_client import CONTENT_TYPE_LATEST

from serving.inference.verdict.rule import Limits
from serving.process import metrics as prometheus
from serving.web.auth import guard_status
from serving.web.problems import Kind, Problem
from serving.web.schemas import Health, ModelAnswer, problems
from serving.web.state import current

_READY: dict[Any, Any] = {200: Health} | problems(503)
_MODEL: dict[Any, Any] = {200: ModelAnswer} | problems(401)
_TEXT = {"description": "Prometheus text", "content": {"text/plain": {"schema": {"type": "string"}}}}
_METRICS: dict[Any, Any] = {200: _TEXT} | problems(401)

status = APIBlueprint("status", __name__)
status.before_request(guard_status)


@status.get("/healthz", summary="The process lives", responses=_READY)
def healthz() -> Response:
    """200 unless nothing in the process has moved for so long that it is about to be replaced."""
    if current().engine.batcher.stuck:
        raise Problem(Kind.NOT_READY, "this process is stuck and ends")
    return jsonify(Health().model_dump())


@status.get("/readyz", summary="A photo went through the whole path", responses=_READY)
def readyz() -> Response:
    """200 when a built-in photo went through decoding, queue, model and rule less than a second ago."""
    failure = current().engine.failure()
    if failure is not None:
        raise Problem(Kind.NOT_READY, f"the self-check failed: {type(failure).__name__}")
    return jsonify(Health().model_dump())


@status.get("/model", summary="What is in service", responses=_MODEL)
def model() -> Response:
    """Everything that decides an answer, and where it comes from."""
    state = current()
    settings, deployment = state.settings, state.engine.deployment
    predictor, metadata = deployment.predictor, deployment.predictor.metadata
    distance = deployment.rule.limits.max_distance
    answer = ModelAnswer(
        **asdict(metadata) | {"image_size": predictor.image_size},
        version=deployment.version,
        provider=predictor.provider,
        T_clean=deployment.rule.t_clean,
        T_low=deployment.rule.t_low,
        refuses=deployment.rule.limits != Limits(),
        **asdict(deployment.rule.limits) | {"max_distance": distance if math.isfinite(distance) else None},
        override=settings.override,
        threshold_json=predictor.threshold.content,
        certified=deployment.certified,
        model_path=str(settings.model_path),
        threshold_path=str(settings.threshold_path) if settings.threshold_path else None,
        model_sha256=predictor.sha256,
        threshold_sha256=predictor.threshold.sha256,
        trained_on_drawings=metadata.trained_on_drawings,
        git_commit=settings.git_commit,
        reload_refused=state.store.refused if state.store else None,
    )
    return jsonify(answer.model_dump())


@status.get("/metrics", summary="Prometheus metrics of all workers", responses=_METRICS)
def metrics() -> Response:
    """Counters and histograms since the server started, over all its workers."""
    deployment = current().engine.deployment
    precision, rule = deployment.predictor.metadata.precision, deployment.rule
    model = prometheus.ModelInService(deployment.version, precision, deployment.certified, rule.t_clean, rule.t_low)
    return Response(prometheus.exposition(model), content_type=CONTENT_TYPE_LATEST)
