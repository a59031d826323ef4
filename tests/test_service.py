"""The real service: gunicorn over HTTP, under load, reloads, kills, junk and slow clients."""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from PIL import Image
from schemathesis.specs.openapi.checks import positive_data_acceptance

from serving.model.predictor import Predictor
from serving.photo.cores import usable_cores
from serving.photo.decode import decode
from tests.support.live import COMMAND, ROOT, Live, Traffic, answers, environment, photo, running, wait_until
from tests.support.onnx_models import Pair, write_pair

WORKERS = str(min(2, usable_cores()))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"), t_clean=0.6, t_low=0.4, work=1)


@pytest.fixture(scope="module")
def live(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One service for the tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("live")
    with running(pair, folder, WORKERS=WORKERS, REQUEST_SECONDS="2", MAX_BYTES="3000000") as live:
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
        for index in random.Random(number).sample(range(len(photos)), 24):
            answer = live.send(photos[index]).json()
            assert abs(answer["p_clean"] - float(alone[index][0])) < 1e-5
            assert answer["label"] == predictor.verdicts(alone[index])[0]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(client, range(16)))
    metrics = requests.get(live.url + "/metrics", timeout=10).text
    assert samples(metrics, "dirtycar_batch_size_count") < samples(metrics, "dirtycar_batch_size_sum")


def samples(metrics: str, name: str) -> float:
    """The sum of a metric's samples over its labels."""
    return sum(float(line.rpartition(" ")[2]) for line in metrics.splitlines() if re.match(rf"{name}[ {{]", line))


def test_every_path_and_status(live: Live) -> None:
    get = lambda path: requests.get(live.url + path, timeout=10)  # noqa: E731
    for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/model", "/metrics"):
        assert get(path).status_code == 200, path
    url = lambda body: requests.post(live.url + "/predict/url", json=body, timeout=10)  # noqa: E731
    answers = {
        400: live.send(b"junk"),
        404: get("/nope"),
        405: get("/predict/file"),
        413: live.send(b"x" * 3_100_000),
        415: live.send(b"%PDF-1.7"),
        422: url({"url": "http://169.254.169.254/"}),
    }
    for status, answer in answers.items():
        assert answer.status_code == status and answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["status"] == status
    assert url({}).status_code == 400
    several = requests.post(
        live.url + "/predict/files", files=[("file", ("a", photo(255))), ("file", ("b", b"junk"))], timeout=10
    ).json()
    assert several[0]["label"] == "clean" and several[1]["status"] == 400


def test_a_photo_behind_a_url(pair: Pair, tmp_path: Path) -> None:
    """The whole way, from a store that is let through although it is on this machine."""
    (tmp_path / "car.jpg").write_bytes(photo(255))
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as store:
        threading.Thread(target=store.serve_forever, daemon=True).start()
        port = store.server_address[1]
        with running(pair, tmp_path, URL_ALLOW_NETWORKS="127.0.0.0/8", URL_PORTS=str(port)) as live:
            ask = lambda path: requests.post(  # noqa: E731
                live.url + "/predict/url", json={"url": f"http://localhost:{port}/{path}"}, timeout=10
            )
            assert ask("car.jpg").json()["label"] == "clean"
            assert ask("nope.jpg").json()["type"].endswith("url-unfetchable")
            assert ask("").json()["type"].endswith("not-a-photo")
        store.shutdown()


def test_chunked_bodies_and_their_limit(live: Live) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    form = "multipart/form-data; boundary=x"
    headers = {"Content-Type": form}

    def send(parts: list[bytes]) -> requests.Response:
        return requests.post(live.url + "/predict/file", data=iter(parts), headers=headers, timeout=10)

    assert send([head, photo(255), b"\r\n--x--\r\n"]).json()["label"] == "clean"
    assert send([head, *[b"x" * 100_000] * 60, b"\r\n--x--\r\n"]).status_code == 413
    with socket.create_connection(("127.0.0.1", int(live.url.rpartition(":")[2]))) as connection:
        lines = (
            "POST /predict/file HTTP/1.1",
            "Host: x",
            "Transfer-Encoding: chunked",
            f"Content-Type: {form}",
            "",
            "zz\r\n",
        )
        connection.sendall("\r\n".join(lines).encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")


def test_metrics_add_up_over_workers(live: Live) -> None:
    before = samples(requests.get(live.url + "/metrics", timeout=10).text, "dirtycar_verdicts_total")
    with ThreadPoolExecutor(8) as pool:
        assert all(answer.ok for answer in pool.map(lambda _: live.send(photo(250)), range(40)))
    for _ in range(4):  # whichever worker answers
        after = samples(requests.get(live.url + "/metrics", timeout=10).text, "dirtycar_verdicts_total")
        assert after - before == 40


def test_a_slow_client_is_cut_off_and_the_rest_served(live: Live) -> None:
    address = ("127.0.0.1", int(live.url.rpartition(":")[2]))
    head = b"POST /predict/file HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    head += b"Content-Length: 999\r\n\r\n"
    slow = [socket.create_connection(address) for _ in range(20)]
    for number, connection in enumerate(slow):
        connection.settimeout(8)
        connection.sendall(head if number % 2 else head[:30])
    started = time.monotonic()
    assert live.send(photo()).ok
    for connection in slow:
        assert b" 200 " not in connection.recv(4096)[:20]
        connection.close()
    assert time.monotonic() - started < 6


def test_a_fuzz_of_image_files_never_fails_the_service(live: Live) -> None:
    """Mutated photos: no 5xx, no dead worker. Many in each request, so that thousands take seconds."""
    rng = random.Random(0)
    seeds = [
        photo(120, kind=kind, size=(90, 70)) for kind in ("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "TIFF")
    ]
    workers = live.workers()

    def mutant() -> bytes:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 2, 8, 40))):
            at = rng.randrange(len(data))
            action = rng.random()
            if action < 0.6:
                data[at] = rng.randrange(256)
            elif action < 0.75:
                data[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
            elif action < 0.9:
                del data[at : at + rng.randrange(1, 30)]
            else:
                data[at:at] = data[: rng.randrange(1, 60)]
            if not data:
                break
        return bytes(data)

    def request(photos: list[bytes]) -> None:
        answer = requests.post(live.url + "/predict/files", files=[("file", ("a", p)) for p in photos], timeout=60)
        assert answer.status_code == 200, answer.text
        assert all(item.get("status", 200) < 500 for item in answer.json())

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(request, [[mutant() for _ in range(25)] for _ in range(120)]))
    assert live.workers() == workers


def test_requests_of_junk_are_no_5xx(live: Live) -> None:
    address = ("127.0.0.1", int(live.url.rpartition(":")[2]))
    rng = random.Random(1)
    whole = requests.Request("POST", live.url + "/predict/file", files={"file": ("a.jpg", photo())}).prepare()
    lines = ["POST /predict/file HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in whole.headers.items())]
    raw = "\r\n".join(lines).encode() + b"\r\n\r\n" + whole.body
    for _ in range(150):
        data = bytearray(raw)
        for _ in range(rng.randrange(1, 12)):
            data[rng.randrange(min(len(data), 420))] = rng.randrange(256)
        with socket.create_connection(address) as connection:
            connection.settimeout(5)
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(200)
        assert not answer.startswith(b"HTTP/1.1 500"), bytes(data[:420])
    assert live.send(photo()).ok


def test_logs_are_json_lines(live: Live) -> None:
    live.send(photo(), path="/predict/file?secret=1", headers={"X-Request-ID": "find-me"})
    lines = [json.loads(line) for line in live.log.read_text().splitlines()]
    mine = [line for line in lines if line.get("id") == "find-me"]
    assert len(mine) == 1 and mine[0]["status"] == 200 and mine[0]["verdict"] and "secret" not in live.log.read_text()


def test_the_openapi_document_keeps_its_promises(live: Live) -> None:
    """schemathesis makes requests from the document, right ones and wrong ones, and holds the answers against it."""
    schema = schemathesis.openapi.from_url(live.url + "/openapi.json")
    for found in schema.get_all_operations():
        quick = settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))

        @quick
        @given(case=found.ok().as_strategy())
        def check(case: schemathesis.Case) -> None:
            # A schema cannot say that bytes must be a photo, or that a URL must lead to one.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        check()


def test_a_killed_worker_costs_its_own_requests_only(pair: Pair, tmp_path: Path) -> None:
    clients = 6
    with running(pair, tmp_path, WORKERS=WORKERS) as live, Traffic(live, clients) as traffic:
        wait_until(lambda: traffic.seen[200] > 50, 20)
        first = live.workers()[0]
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: first not in live.workers() and len(live.workers()) == int(WORKERS), 20)
        before = traffic.seen[200]
        wait_until(lambda: traffic.seen[200] > before + 50, 20)
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
        wait_until(lambda: stuck not in live.workers() and answers(live), 20)
        assert live.send(photo()).ok
        metrics = requests.get(live.url + "/metrics", timeout=10).text
        assert samples(metrics, "dirtycar_workers_stuck_total") == 1 and samples(metrics, "dirtycar_threads_busy") == 0


def test_reload_under_load(tmp_path: Path) -> None:
    """SIGHUP: a good pair takes over, a bad one does not, and no request fails; a new worker gets the good one."""
    pair = write_pair(tmp_path / "pair", t_clean=0.6)
    with running(pair, tmp_path, WORKERS=WORKERS) as live, Traffic(live) as traffic:
        model = lambda: requests.get(live.url + "/model", timeout=10).json()  # noqa: E731
        old = model()["version"]
        wait_until(lambda: traffic.seen[200] > 30, 20)
        write_pair(tmp_path / "pair", size=48, t_clean=0.7)
        os.kill(live.pid, signal.SIGHUP)
        wait_until(lambda: all(model()["T_clean"] == 0.7 for _ in range(6)), 20)
        new = model()["version"]
        pair.model.write_bytes(pair.model.read_bytes()[:400])
        os.kill(live.pid, signal.SIGHUP)
        wait_until(lambda: model()["reload_refused"] is not None, 20)
        assert model()["version"] == new and "best.onnx" in model()["reload_refused"]
        os.kill(live.workers()[0], signal.SIGTERM)  # it finishes its requests, and its successor has the good pair
        wait_until(lambda: len(live.workers()) == int(WORKERS), 20)
        before = traffic.seen[200]
        wait_until(lambda: traffic.seen[200] > before + 50, 20)
    assert set(traffic.seen) == {200} and traffic.models == {old, new}
    lines = [json.loads(line) for line in live.log.read_text().splitlines()]
    assert any(line["level"] == "ERROR" and "reload refused" in line["message"] for line in lines)


def test_a_slow_load_holds_up_neither_a_new_worker_nor_the_end(tmp_path: Path) -> None:
    """While a model is tried that takes some ten seconds; one SIGHUP more asks for nothing twice."""
    pair = write_pair(tmp_path / "pair")
    with running(pair, tmp_path, WORKERS="1", THREADS="1") as live:

        def trials() -> set[str]:
            """Children of other threads than the one that forks workers."""
            lists = Path(f"/proc/{live.pid}/task").glob("*/children")
            return {pid for found in lists for pid in found.read_text().split()} - set(map(str, live.workers()))

        (first,) = live.workers()
        write_pair(tmp_path / "pair", t_clean=0.7, work=200)
        for _ in range(3):
            os.kill(live.pid, signal.SIGHUP)
        wait_until(lambda: len(trials()) == 1, 10)
        (trial,) = trials()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: live.workers() not in ([first], []) and answers(live), 20)
        assert trials() == {trial} and "refused" not in live.log.read_text()
        os.kill(live.pid, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{trial}").exists(), 5)


def test_a_worker_that_cannot_start_stops_no_other(tmp_path: Path) -> None:
    """Its pair cannot be read now: it is tried again, the other workers serve on, and it comes back."""
    pair = write_pair(tmp_path / "pair")
    with running(pair, tmp_path, WORKERS=WORKERS, TMPDIR=str(tmp_path)) as live:
        wait_until(lambda: answers(live) and serving_workers(live) == set(live.workers()), 20)
        model = next(tmp_path.glob("dirtycar-*")) / "current" / "best.onnx"
        model.rename(model.with_suffix(".away"))
        first, *others = live.workers()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: live.log.read_text().count("cannot start and is tried again") >= 2, 20)
        assert not others or (set(others) < set(live.workers()) and live.send(photo(255)).ok)
        model.with_suffix(".away").rename(model)
        wait_until(lambda: answers(live) and serving_workers(live) == set(live.workers()), 20)


def serving_workers(live: Live) -> set[int]:
    """The workers that live and have answered a request."""
    lines = [json.loads(line) for line in live.log.read_text().splitlines()]
    return {line["pid"] for line in lines if line["logger"] == "serving.request"} & set(live.workers())


def test_overload_is_shed_and_answers_stay_quick(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "slow", work=40)
    with running(pair, tmp_path, QUEUE="4", MAX_PHOTOS="4", MAX_BATCH="1", THREADS="1", WORKERS="1") as live:
        with Traffic(live, 24) as traffic:
            wait_until(lambda: traffic.seen[503] > 20 and traffic.seen[200] > 4, 30)
            assert requests.get(live.url + "/readyz", timeout=10).ok
        assert set(traffic.seen) == {200, 503}
        wait_until(lambda: live.send(photo()).ok, 10)


def test_sigterm_answers_what_is_under_way(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "slow", work=40)
    with running(pair, tmp_path, MAX_BATCH="1") as live, ThreadPoolExecutor(6) as pool:
        under_way = [pool.submit(live.send, photo(255)) for _ in range(6)]
        time.sleep(0.3)
        os.kill(live.pid, signal.SIGTERM)
        assert [answer.result().status_code for answer in under_way] == [200] * 6


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"THRESH": "7"}, "THRESH"),
        ({"REQUIRE_CERTIFIED": "1"}, "certified: false"),
        ({"REQUIRE_GPU": "1"}, "REQUIRE_GPU=1"),
        ({"MODEL_PATH": "/nowhere/best.onnx"}, "/nowhere/best.onnx"),
        ({"IMGSZ": "224"}, "IMGSZ=224"),
    ],
)
def test_a_start_that_must_fail_says_why(tmp_path: Path, settings: dict[str, str], reason: str) -> None:
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
            wait_until(lambda: list(tmp_path.glob("dirtycar-*/model-*")), 30)  # the model is being tried
        finally:
            server.terminate()
    assert server.returncode != 0 and not list(tmp_path.glob("dirtycar-*"))


@pytest.mark.parametrize(("host", "bind"), [("::", "[::]:8000"), ("[::1]", "[::1]:8000"), ("0.0.0.0", "0.0.0.0:8000")])
def test_hosts_of_both_kinds(tmp_path: Path, host: str, bind: str) -> None:
    command = [sys.executable, *COMMAND[:-1], "serving.app:create_app", "--print-config"]
    env = os.environ | {"HOST": host, "PORT": "8000", "TMPDIR": str(tmp_path)}
    printed = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.search(r"^bind +=\s*\['(.*)'\]$", printed, re.MULTILINE)[1] == bind
    assert not list(tmp_path.glob("dirtycar-*"))


def test_memory_stays_flat(live: Live) -> None:
    def memory() -> int:
        texts = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in live.workers())
        return sum(int(re.search(r"^Anonymous:\s+(\d+)", text, re.MULTILINE)[1]) for text in texts)

    data = photo(200, size=(1600, 1200))

    def send(count: int) -> None:
        session = requests.Session()
        for _ in range(count):
            assert session.post(live.url + "/predict/file", files={"file": ("a", data)}, timeout=30).ok

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, [75] * 4))
        early = memory()
        list(pool.map(send, [250] * 4))
    assert memory() < early * 1.05
