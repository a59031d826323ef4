"""The real service for tests: gunicorn on a free port, as it is started in production."""

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import SystemRandom
from typing import Self

import psutil
import requests
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.support.onnx_models import Pair

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["-m", "gunicorn", "-c", "serving/gunicorn.conf.py", "serving.app:create_app()"]
OURS = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")  # a developer's own settings must not change a test


def free_port() -> int:
    """A port that nothing listens on, below those that the system gives to clients, one of which would take it."""
    while True:
        port = SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass(frozen=True)
class Live:
    """A running service."""

    port: int
    pid: int
    log: Path

    @property
    def url(self) -> str:
        """Where it is asked, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> list[int]:
        """The process ids of the workers."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def cpu_seconds(self) -> float:
        """CPU time so far of the service and of all processes below it, those that have ended too."""
        server = psutil.Process(self.pid)
        times = [one.cpu_times() for one in (server, *server.children(recursive=True))]
        return sum(t.user + t.system + t.children_user + t.children_system for t in times)

    def send(self, photo: bytes, path: str = "/predict/file", **options: object) -> requests.Response:
        """POST one photo."""
        return requests.post(self.url + path, files={"file": ("photo", photo)}, timeout=60, **options)

    def status(self, photo: bytes) -> str:
        """The status of a photo's answer, `lost` if there is none."""
        try:
            return str(self.send(photo).status_code)
        except requests.RequestException:
            return "lost"

    def statuses(self, photos: Sequence[bytes]) -> list[str]:
        """The status of each photo in one request: its own, or that of the whole answer."""
        parts = [("file", ("photo", photo)) for photo in photos]
        try:
            answer = requests.post(self.url + "/predict/files", files=parts, timeout=120)
        except requests.RequestException:
            return ["lost"] * len(photos)
        if not answer.ok:
            return [str(answer.status_code)] * len(photos)
        return [str(item.get("status", 200)) for item in answer.json()]


def environment(pair: Pair, **settings: str) -> dict[str, str]:
    """The environment of a service with this pair and nothing but these settings."""
    inherited = {name: os.environ[name] for name in OURS if name in os.environ}
    return inherited | {"MODEL_PATH": str(pair.model)} | settings


@contextmanager
def running(
    pair: Pair,
    folder: Path,
    *,
    cwd: Path = ROOT,
    command: Sequence[str] = (sys.executable, *COMMAND),
    user: int | None = None,
    output: int | None = None,
    **settings: str,
) -> Iterator[Live]:
    """A service that is ready; stopped at the end. Its log goes to `folder`, or to the descriptor `output`."""
    port = free_port()
    log = folder / f"service-{port}.log"
    env = environment(pair, PORT=str(port), **settings)
    with log.open("wb") as out:
        sink = out if output is None else output
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=sink, stderr=sink,
            user=user, group=user, extra_groups=None if user is None else [],
        )  # fmt: skip
    live = Live(port, process.pid, log)
    try:
        wait_until(lambda: process.poll() is not None or answers(live))
        assert process.poll() is None, log.read_text()
        yield live
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(45)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


class Traffic:
    """Ordinary clients, each sending a photo again and again on one connection, every `every` seconds at most; or a
    `probe` that asks for /healthz, each time on a new connection."""

    def __init__(
        self, live: Live, clients: int = 6, *, data: bytes | None = None, every: float = 0.0, probe: bool = False
    ) -> None:
        self._live, self._every, self._probe = live, every, probe
        self._data = photo(255) if data is None else data
        self._stop = threading.Event()
        self.seen: Counter[int | str] = Counter()  # answers by their status, those that did not come as `lost`
        self.models: set[str] = set()
        self.waits: list[float] = []  # seconds for each answer, or until it was lost
        self.lost: list[tuple[float, float]] = []  # when each lost request began and ended, by the monotonic clock
        self._threads = [threading.Thread(target=self._client) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def failed(self) -> int:
        """Requests without the answer that they should have had."""
        return self.seen.total() - self.seen[200]

    def p99(self) -> float:
        """Of the waits, in seconds."""
        return sorted(self.waits)[int(0.99 * len(self.waits))]

    def _client(self) -> None:
        session = requests.Session()
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                answer = self._ask(session)
            except requests.RequestException:
                self.seen["lost"] += 1
                self.lost.append((began, time.monotonic()))
                session = requests.Session()
            else:
                self.seen[answer.status_code] += 1
                if answer.ok and not self._probe:
                    self.models.add(answer.json()["model"])
            self.waits.append(time.monotonic() - began)
            self._stop.wait(max(0.0, began + self._every - time.monotonic()))

    def _ask(self, session: requests.Session) -> requests.Response:
        if self._probe:
            return requests.get(self._live.url + "/healthz", timeout=60)
        return session.post(self._live.url + "/predict/file", files={"file": ("a", self._data)}, timeout=60)


def retry_until_refused(live: Live, data: bytes, ends: Counter[str], stopped: threading.Event) -> None:
    """A client that sends photos until it is refused a connection, which it would ask for elsewhere; counts statuses,
    and answers that did not come as `lost`. From `stopped` on, each request has a new connection."""
    session = requests.Session()
    while True:
        try:
            answer = session.post(live.url + "/predict/file", files={"file": ("a", data)}, timeout=60)
            ends[str(answer.status_code)] += 1
        except requests.ConnectionError as error:
            if "refused" in str(error):
                return
            ends["lost"] += 1
        if stopped.is_set():
            session = requests.Session()


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def file_server(folder: Path) -> Iterator[int]:
    """The files of a folder by HTTP. Gives its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def memory_mib(*pids: int) -> float:
    """What processes have allocated together, without mapped files, which others share."""
    texts = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids)
    return sum(int(line.split()[1]) for text in texts for line in text.splitlines() if "Anonymous:" in line) / 1024


def samples(metrics: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples of these labels, in the text of /metrics."""
    found = (sample for family in text_string_to_metric_families(metrics) for sample in family.samples)
    return sum(one.value for one in found if one.name == name and labels.items() <= one.labels.items())


def answers(live: Live) -> bool:
    """Whether the service is ready."""
    try:
        return requests.get(live.url + "/readyz", timeout=5).ok
    except requests.RequestException:
        return False


def wait_until(condition: object, seconds: float = 120) -> None:
    """Poll until `condition()` is true; fails the test after `seconds`, which no machine is too slow for."""
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
