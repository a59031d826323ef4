"""The service: `gunicorn -c serving/gunicorn.conf.py 'serving.app:create_app()'`."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from flask import Flask
from flask_openapi3 import Info, OpenAPI
from flask_openapi3.models import SecurityScheme

from serving.audit.auditor import start_auditor
from serving.engine.budget import Budget
from serving.engine.deployment import load
from serving.engine.engine import Engine
from serving.fetch.client import Fetcher
from serving.process import reload, watchdog
from serving.process.reload import ModelStore
from serving.settings import Settings
from serving.web import car, middleware, predict, problems, state
from serving.web.explain import explain
from serving.web.page import pages
from serving.web.schemas import ProblemAnswer
from serving.web.state import AppState
from serving.web.status import status

log = logging.getLogger(__name__)

INFO = Info(title="dirtycar", version="1", description="A photo of a car in; clean or dirty out.")


def create_app(settings: Settings | None = None) -> Flask:
    """The WSGI application, with a model loaded and tried.

    Call it after the server has forked. Raises UserError when it cannot serve.
    """
    settings = settings or Settings.from_env()
    app = OpenAPI(
        __name__,
        static_folder="web/static",
        info=INFO,
        doc_ui=False,
        security_schemes={"token": SecurityScheme(type="http", scheme="bearer")},
        validation_error_status=400,
        validation_error_model=ProblemAnswer,
        validation_error_callback=problems.invalid_request,
    )
    app.request_class = middleware.Request
    app.ensure_sync = lambda func: func  # type: ignore[method-assign]  # none is async; Flask asks at every call
    app.url_map.merge_slashes = False  # no redirect to a host that the client names
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the verdict comes first
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_bytes
    app.extensions[state.KEY] = _start(settings)
    problems.register(app)
    middleware.register(app, settings.trusted_proxies)
    app.register_api(predict.files)
    if settings.url_fetch:
        app.register_api(predict.urls)
    app.register_api(car.cars(fetch=settings.url_fetch))
    if settings.explain:
        app.register_api(explain)
    app.register_api(status)
    app.register_blueprint(pages)
    return app


def _start(settings: Settings) -> AppState:
    store = reload.store_from_env()
    fetcher = Fetcher.from_settings(settings)
    engine = _start_engine(settings, store)
    fetching = threading.BoundedSemaphore(settings.url_concurrency)
    return AppState(settings, engine, fetcher, Budget(settings.max_bytes_in_flight), fetching, store)


def _start_engine(settings: Settings, store: ModelStore | None) -> Engine:
    """An engine on the server's current model, which it then follows; outside of a server, on the configured files."""
    auditor = start_auditor(settings)
    if store is None:
        return Engine(settings, load(settings, settings.model_path, settings.threshold_path), auditor)
    current = store.current
    engine = Engine(settings, load(settings, *reload.files(current), verified=True), auditor)

    def change(folder: Path) -> None:
        new, old = load(settings, *reload.files(folder), verified=True), engine.deployment
        if (new.predictor.on_gpu, new.max_batch) != (old.predictor.on_gpu, old.max_batch):
            log.warning("%s needs other batches than %s: restart the service", new.version, old.version)
        engine.deployment = new
        log.info("now serving %s", new.version)

    reload.follow(store, current, change)
    watchdog.watch(engine.batcher, settings.stuck_seconds)
    return engine
