"""The real service: gunicorn over HTTP, under load, reloads, kills, junk and slow clients."""

import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from PIL import Image
from schemathesis.specs.openapi.checks import positive_data_acceptance

from serving.inference.model.predictor import Predictor
from serving.inference.photo.cores import usable_cores
from serving.inference.photo.decode import decode
from tests.support.live import (
    COMMAND,
    ROOT,
    Live,
    Traffic,
    answers,
    environment,
    file_server,
    memory_mib,
    photo,
    running,
    samples,
    wait_until,
)
from tests.support.onnx_models import Pair, write_pair
from tests.support.raw_http import read, request

WORKERS = str(min(2, usable_cores()))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"), t_clean=0.6, t_low=0.4, work=1)


@pytest.fixture(scope="module")
def live(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One service for the tests that leave it as it was."""
    folder, patient = tmp_path_factory.mktemp("live"), {"REQUEST_SECONDS": "60", "STUCK_SECONDS": "60"}
    with running(pair, folder, WORKERS=WORKERS, MAX_BYTES="3000000", **patient) as live:
        yield live


def some_photos(count: int) -> list[bytes]:
    """Photos of all kinds, sizes and brightnesses."""
    rng = np.random.default_rng(0)
    photos = []
    for number in range(count):
        pixels = rng.integers(0, 256, (6, 8, 3), np.uint8) // 2 + rng.integers(0, 128)
        size = (int(rng.integers(40, 900)), int(rng.integers(40, 900)))
        image = Image.fromarray(pixels.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, ["JPEG", "PNG", "WEBP", "HEIF"][number % 4])
        photos.append(buffer.getvalue())
    return photos


def test_answers_do_not_depend_on_the_batch(live: Live, pair: Pair) -> None:
    """16 clients at once get what the predictor says of each photo alone."""
    photos = some_photos(64)
    predictor = Predictor(pair.model, threads=1)
    alone = [predictor.p_clean(decode(data, 32)[None]) for data in photos]

    def client(number: int) -> None:
        for index in random.Random(number).sample(range(len(photos)), 5):
            answer = live.send(photos[index]).json()
            assert abs(answer["p_clean"] - float(alone[index][0])) < 1e-5
            assert answer["label"] == predictor.verdicts(alone[index])[0]

    def batched() -> bool:
        metrics = requests.get(live.url + "/metrics", timeout=10).text
        return samples(metrics, "dirtycar_batch_size_count") < samples(metrics, "dirtycar_batch_size_sum")

    with ThreadPoolExecutor(16) as pool:
        for first in range(0, 320, 16):  # on busy cores, clients may come one by one
            list(pool.map(client, range(first, first + 16)))
            if batched():
                break
    assert batched()


def test_a_photo_behind_a_url(pair: Pair, tmp_path: Path) -> None:
    """The whole way, from a store that is let through although it is on this machine."""
    (tmp_path / "car.jpg").write_bytes(photo(255))
    with (
        file_server(tmp_path) as port,
        running(pair, tmp_path, URL_ALLOW_NETWORKS="127.0.0.0/8", URL_PORTS=str(port)) as live,
    ):
        ask = lambda path: requests.post(  # noqa: E731
            live.url + "/predict/url", json={"url": f"http://localhost:{port}/{path}"}, timeout=10
        )
        assert ask("car.jpg").json()["label"] == "clean"
        assert ask("nope.jpg").json()["type"].endswith("url-unfetchable")
        assert ask("").json()["type"].endswith("not-a-photo")


def test_chunked_bodies_and_their_limit(live: Live) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    form = "multipart/form-data; boundary=x"
    headers = {"Content-Type": form}

    def send(parts: list[bytes]) -> requests.Response:
        return requests.post(live.url + "/predict/file", data=iter(parts), headers=headers, timeout=10)

    assert send([head, photo(255), b"\r\n--x--\r\n"]).json()["label"] == "clean"
    assert send([head, *[b"x" * 100_000] * 60, b"\r\n--x--\r\n"]).status_code == 413


def test_metrics_add_up_over_workers(live: Live) -> None:
    before = samples(requests.get(live.url + "/metrics", timeout=10).text, "dirtycar_verdicts_total")
    with ThreadPoolExecutor(8) as pool:
        assert all(answer.ok for answer in pool.map(lambda _: live.send(photo(250)), range(40)))
    for _ in range(4):  # whichever worker answers
        after = samples(requests.get(live.url + "/metrics", timeout=10).text, "dirtycar_verdicts_total")
        assert after - before == 40


def test_the_openapi_document_keeps_its_promises(live: Live) -> None:
    """schemathesis makes requests from the document, right ones and wrong ones, and holds the answers against it."""
    schema = schemathesis.openapi.from_url(live.url + "/openapi.json")
    for found in schema.get_all_operations():
        quick = settings(max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck))

        @quick
        @given(case=found.ok().as_strategy())
        def check(case: schemathesis.Case) -> None:
            # A schema cannot say that bytes must be a photo, or that a URL must lead to one.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        check()


def test_a_killed_worker_costs_its_own_requests_only(pair: Pair, tmp_path: Path) -> None:
    clients = 6
    with running(pair, tmp_path, WORKERS=WORKERS) as live, Traffic(live, clients) as traffic:
        wait_until(lambda: traffic.seen[200] > 50)
        first = live.workers()[0]
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: first not in live.workers() and len(live.workers()) == int(WORKERS))
        before = traffic.seen[200]
        wait_until(lambda: traffic.seen[200] > before + 50)
        in_flight = samples(requests.get(live.url + "/metrics", timeout=10).text, "dirtycar_photos_in_flight")
    assert traffic.seen["lost"] <= clients and set(traffic.seen) <= {200, "lost"}
    assert in_flight <= clients  # what the dead worker had in its hands is not counted for ever


def test_a_worker_that_is_stuck_is_replaced(pair: Pair, tmp_path: Path) -> None:
    """A photo that is never decoded costs its own answer; the count of it outlives the worker."""
    hang = """
import time
from gunicorn.app.wsgiapp import run
from serving.engine.deployment import Deployment
pixels = Deployment.pixels
Deployment.pixels = lambda self, photo, *rest: time.sleep(600) if photo == b"hang" else pixels(self, photo, *rest)
run()
"""
    command = [sys.executable, "-c", hang, *COMMAND[2:]]
    alone = {"WORKERS": "1", "THREADS": "1", "REQUEST_SECONDS": "1", "STUCK_SECONDS": "1"}
    with running(pair, tmp_path, command=command, **alone) as live:
        (stuck,) = live.workers()
        assert live.send(b"hang").status_code == 503
        wait_until(lambda: stuck not in live.workers() and answers(live))
        assert live.send(photo()).ok
        metrics = requests.get(live.url + "/metrics", timeout=10).text
        assert samples(metrics, "dirtycar_workers_stuck_total") == 1 and samples(metrics, "dirtycar_threads_busy") == 0


def test_sigterm_answers_what_is_under_way(tmp_path: Path) -> None:
    """Though a model call takes long, and most requests still wait for theirs."""
    pair = write_pair(tmp_path / "slow", work=20)
    with running(pair, tmp_path, MAX_BATCH="1") as live, ExitStack() as stack:
        address = ("127.0.0.1", live.port)
        clients = [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(6)]
        for client in clients:
            client.sendall(request(photo(255), b"Connection: close\r\n"))
        os.kill(live.pid, signal.SIGTERM)
        assert [(read(client, 60) or b"")[:12] for client in clients] == [b"HTTP/1.1 200"] * 6


def test_reload_under_load(tmp_path: Path) -> None:
    """SIGHUP: a good pair takes over, a bad one does not, and no request fails; a new worker gets the good one."""
    pair = write_pair(tmp_path / "pair", t_clean=0.6)
    with running(pair, tmp_path, WORKERS=WORKERS) as live, Traffic(live) as traffic:
        model = lambda: requests.get(live.url + "/model", timeout=10).json()  # noqa: E731
        old = model()["version"]
        wait_until(lambda: traffic.seen[200] > 30)
        write_pair(tmp_path / "pair", size=48, t_clean=0.7)
        os.kill(live.pid, signal.SIGHUP)
        metrics = lambda: requests.get(live.url + "/metrics", timeout=10).text  # noqa: E731
        # Each worker follows by itself.
        wait_until(lambda: samples(metrics(), "dirtycar_reloads_total", result="done") == int(WORKERS))
        new = model()["version"]
        pair.model.write_bytes(pair.model.read_bytes()[:400])
        os.kill(live.pid, signal.SIGHUP)
        wait_until(lambda: model()["reload_refused"] is not None)
        assert model()["version"] == new and "best.onnx" in model()["reload_refused"]
        (first, *_) = live.workers()
        os.kill(first, signal.SIGTERM)  # it finishes its requests, and its successor has the good pair
        wait_until(lambda: first not in live.workers() and len(live.workers()) == int(WORKERS))
        before = traffic.seen[200]
        wait_until(lambda: traffic.seen[200] > before + 50)
    assert set(traffic.seen) == {200} and traffic.models == {old, new}
    lines = [json.loads(line) for line in live.log.read_text().splitlines()]
    assert any(line["level"] == "ERROR" and "reload refused" in line["message"] for line in lines)


def test_a_slow_load_holds_up_neither_a_new_worker_nor_the_end(tmp_path: Path) -> None:
    """While a model is tried that takes a minute or more; one SIGHUP more asks for nothing twice."""
    pair = write_pair(tmp_path / "pair")
    with running(pair, tmp_path, WORKERS="1", THREADS="1") as live:

        def trials() -> set[str]:
            """Children of other threads than the one that forks workers."""
            lists = Path(f"/proc/{live.pid}/task").glob("*/children")
            return {pid for found in lists for pid in found.read_text().split()} - set(map(str, live.workers()))

        (first,) = live.workers()
        write_pair(tmp_path / "pair", t_clean=0.7, work=2000)
        for _ in range(3):
            os.kill(live.pid, signal.SIGHUP)
        wait_until(lambda: len(trials()) == 1)
        (trial,) = trials()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: live.workers() not in ([first], []) and answers(live))
        assert trials() == {trial} and "refused" not in live.log.read_text()
        os.kill(live.pid, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{trial}").exists(), 30)


def test_a_worker_that_cannot_start_stops_no_other(tmp_path: Path) -> None:
    """Its pair cannot be read now: it is tried again, the other workers serve on, and it comes back."""
    pair = write_pair(tmp_path / "pair")
    with running(pair, tmp_path, WORKERS=WORKERS, TMPDIR=str(tmp_path)) as live:
        wait_until(lambda: answers(live) and serving_workers(live) == set(live.workers()))
        model = next(tmp_path.glob("dirtycar-*")) / "current" / "best.onnx"
        model.rename(model.with_suffix(".away"))
        first, *others = live.workers()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: live.log.read_text().count("cannot start and is tried again") >= 1)
        assert not others or (set(others) < set(live.workers()) and live.send(photo(255)).ok)
        model.with_suffix(".away").rename(model)
        wait_until(lambda: answers(live) and serving_workers(live) == set(live.workers()))


def serving_workers(live: Live) -> set[int]:
    """The workers that live and have answered a request."""
    lines = [json.loads(line) for line in live.log.read_text().splitlines()]
    return {line["pid"] for line in lines if line["logger"] == "serving.request"} & set(live.workers())


@pytest.mark.parametrize(
    ("settings", "reason"), [({"THRESH": "7"}, "THRESH"), ({"REQUIRE_CERTIFIED": "1"}, "certified: false")]
)
def test_a_start_that_must_fail_says_why(tmp_path: Path, settings: dict[str, str], reason: str) -> None:
    """For a setting, and for a model that was tried."""
    pair = write_pair(tmp_path, certified=False)
    command = [sys.executable, *COMMAND]
    env = environment(pair, PORT="0") | {"TMPDIR": str(tmp_path)} | settings
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0 and reason in ended.stderr.splitlines()[-1] and "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("dirtycar-*"))


def test_a_start_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    env = environment(pair, PORT="0") | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, *COMMAND], cwd=ROOT, env=env, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: list(tmp_path.glob("dirtycar-*/model-*")))  # the model is being tried
        finally:
            server.terminate()
    assert server.returncode != 0 and not list(tmp_path.glob("dirtycar-*"))


def test_a_host_of_ipv6_goes_in_brackets(tmp_path: Path) -> None:
    command = [sys.executable, *COMMAND[:-1], "serving.app:create_app", "--print-config"]
    env = os.environ | {"HOST": "[::1]", "PORT": "8000", "TMPDIR": str(tmp_path)}
    printed = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.search(r"^bind +=\s*\['(.*)'\]$", printed, re.MULTILINE)[1] == "[::1]:8000"
    assert not list(tmp_path.glob("dirtycar-*"))


@pytest.mark.slow
def test_memory_stays_flat(live: Live) -> None:
    data = photo(200, size=(1600, 1200))

    def send(count: int) -> None:
        session = requests.Session()
        for _ in range(count):
            assert session.post(live.url + "/predict/file", files={"file": ("a", data)}, timeout=30).ok

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, [75] * 4))
        early = memory_mib(*live.workers())
        list(pool.map(send, [250] * 4))
    assert memory_mib(*live.workers()) < early * 1.05
