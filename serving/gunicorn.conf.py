"""gunicorn's configuration: `gunicorn -c serving/gunicorn.conf.py 'serving.app:create_app()'`.

SIGHUP reloads model and threshold without restarting a worker; other settings need a restart. What the workers share
lies in a temporary folder: copies of the model in service, and the files their metrics are added up from.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_shared = Path(tempfile.mkdtemp(prefix="dirtycar-"))


_server = os.getpid()


@atexit.register
def _leave_nothing() -> None:
    """Remove the folder, however the server ends. Workers, its forks, come by here too."""
    if os.getpid() == _server:
        shutil.rmtree(_shared, ignore_errors=True)


for _number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # until gunicorn sets its own
    signal.signal(_number, lambda *_: sys.exit("stopped while starting"))
(_shared / "metrics").mkdir()
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_shared / "metrics")  # read when prometheus_client is first imported
os.environ["DIRTYCAR_STORE"] = str(_shared)
# glibc asks a silent name server for 10 s, and for 40 s where there are two and a search list, and cannot be
# interrupted: here it gives up after a fifth of that.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:2")

from prometheus_client.multiprocess import mark_process_dead  # noqa: E402

from serving.front.handshakes import refuse_handshakes  # noqa: E402
from serving.near_misses import near_misses  # noqa: E402
from serving.process import cards, logs, metrics  # noqa: E402
from serving.process.reload import ModelStore, Reloader, ReloadError  # noqa: E402
from serving.settings import Settings, SettingsError  # noqa: E402

_log = logging.getLogger("serving.server")


def _stop(reason: Exception) -> None:
    sys.exit(f"dirtycar cannot start: {reason}")


try:
    _settings = Settings.from_env()
except SettingsError as error:
    _stop(error)
_store = ModelStore(_shared)


@atexit.register
def _end_trial() -> None:
    """Leave no process behind that tries a model."""
    if os.getpid() == _server:
        _store.stop()


def _publish() -> None:
    _store.publish(_settings.model_path, _settings.threshold_path, signed=_settings.verify_key is not None)


os.environ["WORKERS"] = str(_settings.workers)  # a worker, which sees one card, must not count anew

_host = f"[{_settings.host.strip('[]')}]" if ":" in _settings.host else _settings.host  # IPv6 goes in brackets
bind = [f"{_host}:{port}" for port in (_settings.port, _settings.health_port) if port is not None]
worker_class = "serving.process.worker.Worker"
workers = _settings.workers
backlog = 1024
keepalive = 30
timeout = 60
graceful_timeout = _settings.drain_seconds
control_socket_disable = True
forwarded_allow_ips = ""  # from a proxy on this host gunicorn takes headers such as PATH_INFO, whoever sent them to it
logconfig_dict = logs.config(_settings.log_level)


def on_starting(server: Any) -> None:
    """Start with a model that was tried, or not at all."""
    for warning in near_misses(os.environ):
        _log.warning(warning)
    try:
        metrics.reserve()
        _publish()
    except (ReloadError, OSError) as error:
        _stop(error)


def when_ready(server: Any) -> None:
    """Let SIGHUP change the model; gunicorn's own way of restarting every worker drops connections that are kept.
    And let SIGTERM refuse connections before anything else."""
    server.handle_hup = Reloader(_publish).ask
    server.handle_term = lambda: _term(server)


def _term(server: Any) -> None:
    for listener in server.LISTENERS:
        refuse_handshakes(listener.sock)
    raise StopIteration  # as gunicorn's own: stop the workers, then end


def pre_fork(server: Any, worker: Any) -> None:
    """Choose a worker's card: the one that the fewest have."""
    worker.card = cards.least_used(cards.visible(), (other.card for other in server.WORKERS.values()))


def post_fork(server: Any, worker: Any) -> None:
    """Set up what is a process's own. Without room for its metrics a worker ends and is tried again."""
    if worker.card is not None:
        os.environ[cards.VISIBLE] = worker.card  # before it initialises CUDA
    try:
        metrics.reserve()
    except OSError as error:
        _log.error("no room for the metrics in %s: %s", _shared, error.strerror)
        time.sleep(1)
        sys.exit(1)  # unlike an error, this does not end the other workers


def child_exit(server: Any, worker: Any) -> None:
    """Take a dead worker's gauges out of the metrics; what it counted stays."""
    if worker.aborted:  # it no longer gave a sign of life
        metrics.WORKERS_STUCK.inc()
    mark_process_dead(worker.pid)
