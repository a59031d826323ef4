"""The last line against what never returns: a worker in which nothing moves makes room for another."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

from serving.engine.batcher import Batcher
from serving.process import metrics

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
LAST_SECONDS = 5  # for the answers that a worker is still sending


def watch(batcher: Batcher, seconds: float) -> None:
    """Start a thread that ends this process, a gunicorn worker, when its batcher has stood still for `seconds`.

    What holds the GIL holds this thread too; gunicorn itself then misses the worker's heartbeat, and kills it.
    """
    threading.Thread(target=_watch, args=(batcher, seconds), name="watchdog", daemon=True).start()


def _watch(batcher: Batcher, seconds: float) -> None:
    # Time is counted in polls: while a machine sleeps, or the process is stopped, it passes without being used.
    since, polls = None, 0
    while polls * POLL_SECONDS < seconds:
        time.sleep(POLL_SECONDS)
        before, since = since, batcher.busy_since()
        polls = polls + 1 if since is not None and since == before else 0
    log.critical("nothing has moved in this worker for %g seconds: it ends, and another takes its place", seconds)
    metrics.WORKERS_STUCK.inc()
    batcher.give_up()
    signal.alarm(LAST_SECONDS)  # by the system: a thread that is stuck may keep the interpreter from ending
    os.kill(os.getpid(), signal.SIGTERM)  # to gunicorn: accept no more, answer what is under way
