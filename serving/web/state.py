"""What the paths share: one `AppState` in each process, found through Flask's current app."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from flask import Flask, current_app

from serving.engine.budget import Budget
from serving.engine.engine import Engine
from serving.fetch.client import Fetcher
from serving.process.reload import ModelStore
from serving.settings import Settings

KEY = "dirtycar"  # of an app's extensions


@dataclass(frozen=True)
class AppState:
    """Everything a request may need."""

    settings: Settings
    engine: Engine
    fetcher: Fetcher
    bytes: Budget  # of bodies and fetched photos
    fetching: threading.BoundedSemaphore  # places for URLs that are being fetched
    store: ModelStore | None  # None outside of gunicorn


def current() -> AppState:
    return of(current_app)


def of(app: Flask) -> AppState:
    state = app.extensions[KEY]
    assert isinstance(state, AppState)
    return state
