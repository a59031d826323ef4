"""The event loops of a worker: one for clients, and one in a thread of its own for probes, where HEALTH_PORT is set."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from flask import Flask

from serving.front.front import Front
from serving.front.handler import STATUS_PATHS, Handler
from serving.front.limits import Limits
from serving.web import state
from serving.web.state import Budget

_PROBES = 64  # connections at HEALTH_PORT
_PROBE_BYTES = 1024 * 1024


class Server:
    """Answers on the listeners of a worker; its owner calls `step` again and again."""

    def __init__(self, cfg: Any, app: Flask, listeners: Sequence[socket.socket], alive: Callable[[], bool]) -> None:
        shared = state.of(app)
        settings = shared.settings
        inside = [one for one in listeners if one.getsockname()[1] == settings.health_port]
        outside = [one for one in listeners if one not in inside]
        limits = Limits(settings.request_seconds, cfg.keepalive, settings.connections, settings.connections_per_address)
        self._handler = Handler(cfg, app, alive)
        self._front = Front(cfg, outside, self._handler, limits, shared.bytes)
        if inside:
            probes = Handler(cfg, app, alive, only=STATUS_PATHS)
            few = limits._replace(connections=_PROBES, per_address=_PROBES)
            front = Front(cfg, inside, probes, few, Budget(_PROBE_BYTES))
            threading.Thread(target=_answer_probes, args=(front, alive), name="health", daemon=True).start()

    def step(self) -> None:
        """Wait until something happens, for less than a second, and do what it asks for."""
        self._front.step()

    def stop(self) -> None:
        """Take no more connections but those under way, and let all that are there finish. Go on with `step`."""
        self._front.stop()

    @property
    def done(self) -> bool:
        """Whether a server that stops has nothing left to do."""
        return self._front.done

    def close(self) -> None:
        """Let go of everything."""
        self._handler.close()
        self._front.close()


def _answer_probes(front: Front, alive: Callable[[], bool]) -> None:
    while alive():
        front.step()
    front.close()
