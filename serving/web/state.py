"""What the paths share: one `AppState` in each process, found through Flask's current app."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from flask import Flask, current_app

from serving.engine.engine import Engine
from serving.fetch.client import Fetcher
from serving.process.reload import Store
from serving.settings import Settings

_KEY = "dirtycar"


class Budget:
    """What the requests in flight may take of something, together."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._lock = threading.Lock()

    @property
    def free(self) -> int:
        """What is left; below zero where more was taken than there is."""
        return self._free

    def take(self, amount: int, *, beyond: bool = False) -> bool:
        """Take an amount if it is free, or `beyond` what is; whoever got it gives it back."""
        with self._lock:
            if amount > self._free and not beyond:
                return False
            self._free -= amount
            return True

    def give(self, amount: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._free += amount


@dataclass(frozen=True)
class AppState:
    """Everything a request may need."""

    settings: Settings
    engine: Engine
    fetcher: Fetcher
    bytes: Budget  # of bodies and fetched photos
    fetching: threading.BoundedSemaphore  # places for URLs that are being fetched
    store: Store | None  # None outside of gunicorn


def install(app: Flask, service: AppState) -> None:
    """Give an app its service."""
    app.extensions[_KEY] = service


def current() -> AppState:
    """The service of the app that is handling this request."""
    return of(current_app)


def of(app: Flask) -> AppState:
    """The service of an app."""
    service = app.extensions[_KEY]
    assert isinstance(service, AppState)
    return service
