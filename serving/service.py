"""What the paths share: one `Service` in each process, found through Flask's current app."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from flask import Flask, current_app

from serving.engine import Engine
from serving.fetch import Fetcher
from serving.pair import Store
from serving.settings import Settings

_KEY = "dirtycar"


@dataclass(frozen=True)
class Service:
    """Everything a request may need."""

    settings: Settings
    engine: Engine
    fetcher: Fetcher
    fetching: threading.BoundedSemaphore  # places for URLs that are being fetched
    store: Store | None  # None outside of gunicorn


def install(app: Flask, service: Service) -> None:
    """Give an app its service."""
    app.extensions[_KEY] = service


def current() -> Service:
    """The service of the app that is handling this request."""
    service = current_app.extensions[_KEY]
    assert isinstance(service, Service)
    return service
