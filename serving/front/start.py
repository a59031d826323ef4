"""The fronts of a worker: one for clients, and where HEALTH_PORT is set one for probes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from flask import Flask

from serving.engine.budget import Budget
from serving.front.front import Front
from serving.front.handler import PROBE_PATHS, Handler
from serving.front.limits import ClientLimits
from serving.web import state

_PROBES, _PROBE_BYTES = 64, 1024 * 1024  # connections at HEALTH_PORT, and what they may hold


def start(cfg: Any, app: Flask, listeners: Sequence[socket.socket], alive: Callable[[], bool]) -> Front:
    """A front for the listeners of a worker but HEALTH_PORT's, which has another in a thread of its own."""
    vars(cfg).update({name: setting.get() for name, setting in cfg.settings.items()})  # else looked up at each use
    shared = state.of(app)
    settings = shared.settings
    inside = [one for one in listeners if one.getsockname()[1] == settings.health_port]
    limits = ClientLimits(
        settings.request_seconds, cfg.keepalive, settings.connections, settings.connections_per_address
    )
    if inside:
        few = limits._replace(connections=_PROBES, per_address=_PROBES)
        probes = Front(cfg, inside, Handler(cfg, app, alive, only=PROBE_PATHS), few, Budget(_PROBE_BYTES))

        def answer() -> None:
            while alive():
                probes.step()
            probes.close()

        threading.Thread(target=answer, name="health", daemon=True).start()
    outside = [one for one in listeners if one not in inside]
    return Front(cfg, outside, Handler(cfg, app, alive), limits, shared.bytes)
