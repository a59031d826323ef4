"""The real service for tests: gunicorn on a free port, as it is started in production."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from PIL import Image

from tests.onnx_models import Pair

ROOT = Path(__file__).resolve().parent.parent
COMMAND = ["-m", "gunicorn", "-c", "serving/gunicorn.conf.py", "serving.app:create_app()"]
OURS = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")  # a developer's own settings must not change a test


@dataclass(frozen=True)
class Live:
    """A running service."""

    url: str
    pid: int
    log: Path

    def workers(self) -> list[int]:
        """The process ids of the workers."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def send(self, photo: bytes, path: str = "/predict/file", **options: object) -> requests.Response:
        """POST one photo."""
        return requests.post(self.url + path, files={"file": ("photo", photo)}, timeout=30, **options)


def environment(pair: Pair, **settings: str) -> dict[str, str]:
    """The environment of a service with this pair and nothing but these settings."""
    inherited = {name: os.environ[name] for name in OURS if name in os.environ}
    return inherited | {"MODEL_PATH": str(pair.model), "THRESHOLD_PATH": str(pair.threshold)} | settings


@contextmanager
def running(
    pair: Pair,
    folder: Path,
    *,
    cwd: Path = ROOT,
    command: Sequence[str] = (sys.executable, *COMMAND),
    user: int | None = None,
    **settings: str,
) -> Iterator[Live]:
    """A service that is ready; stopped at the end. Its log goes to `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / f"service-{port}.log"
    env = environment(pair, PORT=str(port), **settings)
    with log.open("wb") as out:
        groups = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=out, stderr=out, **groups)
    live = Live(f"http://127.0.0.1:{port}", process.pid, log)
    try:
        wait_until(lambda: process.poll() is not None or answers(live), 60)
        assert process.poll() is None, log.read_text()
        yield live
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(45)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def answers(live: Live) -> bool:
    """Whether the service is ready."""
    try:
        return requests.get(live.url + "/readyz", timeout=5).ok
    except requests.RequestException:
        return False


def wait_until(condition: object, seconds: float) -> None:
    """Poll until `condition()` is true; fails the test after `seconds`."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def photo(brightness: int = 200, *, size: tuple[int, int] = (320, 240), kind: str = "JPEG", **options: object) -> bytes:
    """A photo of one grey, encoded."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (brightness,) * 3).save(buffer, kind, **options)
    return buffer.getvalue()
