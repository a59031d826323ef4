"""Every path and every status, through the application itself; the real server is in test_service.py."""

import io
import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flask
import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from serving.app import create_app
from serving.fetch.client import UrlUnfetchable
from serving.inference.model.predictor import Predictor
from serving.inference.photo import pool
from serving.inference.photo.errors import BrokenPhoto
from serving.process.logs import JsonFormatter
from serving.settings import Settings
from serving.web import state
from serving.web.problems import TYPE_PREFIX
from tests.support.live import photo, samples, wait_until
from tests.support.onnx_models import Pair, write_pair

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"), t_clean=0.75, t_low=0.5)


def make_app(pair: Pair, **environ: str) -> Flask:
    return create_app(Settings.from_env({"MODEL_PATH": str(pair.model), **environ}))


@pytest.fixture(scope="module")
def app(pair: Pair) -> Iterator[Flask]:
    app = make_app(pair, MAX_BYTES="200000", MAX_REQUEST_BYTES="400000", MAX_PHOTOS="4", MAX_PIXELS="1000000")
    yield app
    state.of(app).engine.close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def post(client: FlaskClient, *photos: bytes, path: str = "/predict/file", **options: Any) -> TestResponse:
    parts = [(io.BytesIO(data), f"{i}.txt") for i, data in enumerate(photos)]
    return client.post(path, data={"file": parts}, **options)


def assert_problem(response: TestResponse, status: int, slug: str) -> dict[str, Any]:
    assert (response.status_code, response.mimetype) == (status, "application/problem+json"), response.text
    body = json.loads(response.text)
    assert body["type"] == TYPE_PREFIX + slug and body["status"] == status
    assert body["title"] and body["detail"] and body["request_id"] == response.headers["X-Request-ID"]
    assert slug != "overloaded" or response.headers["Retry-After"] == "1"
    return dict(body)


@pytest.mark.parametrize(("grey", "label"), [(255, "clean"), (192, "clean"), (160, "uncertain"), (100, "dirty")])
def test_file(client: FlaskClient, grey: int, label: str) -> None:
    answer = post(client, photo(grey, kind="PNG")).json
    assert list(answer) == ["label", "p_clean", "threshold", "model"]
    assert answer["label"] == label and answer["threshold"] == 0.75
    assert answer["p_clean"] == pytest.approx(grey / 255, abs=1e-6) == round(answer["p_clean"], 6)


def test_files_keep_their_order_and_bad_ones_their_place(client: FlaskClient) -> None:
    answers = post(client, photo(255), b"junk", photo(0), b"%PDF-1.7", path="/predict/files").json
    assert [a.get("label", a.get("status")) for a in answers] == ["clean", 400, "dirty", 415]
    assert answers[1]["type"] == TYPE_PREFIX + "not-a-photo"


@pytest.mark.parametrize(
    ("data", "status", "slug"),
    [
        (b"junk", 400, "not-a-photo"),
        (photo()[:300], 400, "broken-photo"),
        (photo(size=(800, 800), quality=95)[:-400], 400, "broken-photo"),
        (b"%PDF-1.7", 415, "unsupported-photo"),
        (b"x" * 200_001, 413, "too-many-bytes"),
        (photo(size=(1001, 1000), kind="PNG"), 413, "too-many-pixels"),
    ],
)
def test_bad_photos(client: FlaskClient, data: bytes, status: int, slug: str) -> None:
    assert_problem(post(client, data), status, slug)


def test_a_bad_photo_is_let_go_at_once(app: Flask) -> None:
    """An error with its traceback would hold the pixels, and itself, until Python collects circles."""
    (error,) = state.of(app).engine.predict([photo(size=(900, 900), kind="PNG")[:900]])
    assert isinstance(error, BrokenPhoto)
    assert error.__traceback__ is None and error.__cause__ is None and error.__context__ is None


FORM, JSON = "multipart/form-data", "application/json"


def form(part: bytes, content: bytes, end: bytes = b"\r\n--x--\r\n") -> dict[str, Any]:
    """A form of one part as it goes over the line, for a test client."""
    return {"data": b"--x\r\n" + part + b"\r\n\r\n" + content + end, "content_type": f"{FORM}; boundary=x"}


def test_forms_as_clients_send_them(client: FlaskClient) -> None:
    part, other = b'Content-Disposition: form-data; name="file"; filename=a.jpg', b"\r\n--x\r\nX: y\r\n\r\n\r\n--x--"
    old_name = b"content-disposition: form-data; name=file; filename*=utf-8''%C3%A4.jpg"  # of urllib3 before 2.0
    latin = part.replace(b"a.jpg", b'"\xe4.jpg"')
    for good in (
        form(part, photo()),
        form(latin, photo()),
        form(old_name, photo()),
        form(part + b"\r\nX: " + b"y" * 4000, photo()),
    ):
        assert client.post("/predict/file", **good).status_code == 200
    assert_problem(client.post("/predict/file", **form(part, b"")), 400, "not-a-photo")
    for bad in (
        form(part, photo(), b""), form(part, photo(), b"\r\n--x"), form(part, photo(), other), form(b"X: y", photo()),
        form(part + b"\r\nX: " + b"y" * 9000, photo()), form(b"\r\n", b""), {"data": b"", "content_type": FORM},
    ):  # fmt: skip
        assert client.post("/predict/file", **bad).status_code in (400, 413)
    field = b'Content-Disposition: form-data; name="x"'
    assert_problem(client.post("/predict/files", **form(field, b"y" * 500_001)), 413, "too-many-bytes")
    many = (b"--x\r\n" + field + b"\r\n\r\n\r\n") * 1001
    assert_problem(client.post("/predict/files", data=many, content_type=f"{FORM}; boundary=x"), 413, "too-many-bytes")


def test_a_form_that_is_full_of_boundaries_costs_little(client: FlaskClient) -> None:
    part = b'Content-Disposition: form-data; name="file"; filename=a' + b'; "' * 1300
    for filler in (b"\r\n--", b"\r", b"\r\n--x\r", b"--x", b"\n--x\r\n"):
        began = time.process_time()
        client.post("/predict/file", **form(part, filler * (190_000 // len(filler))))
        assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("path", "data", "kind", "status", "slug"),
    [
        ("file", {"photo": (io.BytesIO(photo()), "a")}, FORM, 400, "bad-request"),
        ("file", {"file": "text"}, FORM, 400, "bad-request"),
        ("file", b"x", FORM, 400, "bad-request"),
        ("files", {}, FORM, 400, "bad-request"),
        ("file", {"file": [(io.BytesIO(photo()), "a"), (io.BytesIO(photo()), "b")]}, FORM, 400, "bad-request"),
        ("file", b"x", "image/jpeg", 415, "unsupported-media-type"),
        ("url", b"{}", None, 415, "unsupported-media-type"),
        ("url", b'{"url": "%s"}' % (b"x" * 100_000), JSON, 413, "too-many-bytes"),
        *(("url", body, JSON, 400, "bad-request")
          for body in (b"{", b"[]", b"null", b"{}", b'{"url": 3}', b'"x"', b"\xff", b"[" * 5000)),
    ],
)  # fmt: skip
def test_bodies_that_are_not_understood(
    client: FlaskClient, path: str, data: Any, kind: str | None, status: int, slug: str
) -> None:
    assert_problem(client.post(f"/predict/{path}", data=data, content_type=kind), status, slug)


@pytest.mark.parametrize("path", ["url", "car"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null"])
def test_a_body_that_is_no_object_is_said_to_be_none(client: FlaskClient, path: str, body: bytes) -> None:
    answer = client.post(f"/predict/{path}", data=body, content_type=JSON)
    assert answer.json and answer.json["detail"] == "the body is no JSON object"


def test_too_many_bytes_or_photos(client: FlaskClient) -> None:
    assert_problem(post(client, *[b"x" * 150_000] * 3, path="/predict/files"), 413, "too-many-bytes")
    assert_problem(post(client, *[photo()] * 5, path="/predict/files"), 413, "too-many-photos")


def test_paths_and_methods(client: FlaskClient) -> None:
    assert_problem(client.get("/nope"), 404, "not-found")
    refused = client.get("/predict/file")
    assert_problem(refused, 405, "method-not-allowed")
    assert "POST" in refused.headers["Allow"]
    assert client.get("/healthz").json == {"status": "ok"}
    for path in ("/", "/docs", "/static/app.js", "/docs/js/swagger-ui-bundle.js"):
        assert client.get(path).status_code == 200, path
    assert_problem(client.get("/static/../app.py"), 404, "not-found")
    assert_problem(client.get("/predict//file", headers={"Host": "other.example"}), 404, "not-found")
    assert_problem(client.get("/docs/..%2f..%2f__init__.py"), 404, "not-found")


def test_url(client: FlaskClient, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_problem(client.post("/predict/url", json={"url": "http://127.0.0.1/"}), 422, "url-refused")
    monkeypatch.setattr("serving.fetch.client.Fetcher.fetch", lambda self, url: photo(255))
    assert client.post("/predict/url", json={"url": "https://photos.example/a"}).json["label"] == "clean"

    def unfetchable(self: object, url: str) -> bytes:
        raise UrlUnfetchable("no answer")

    monkeypatch.setattr("serving.fetch.client.Fetcher.fetch", unfetchable)
    assert_problem(client.post("/predict/url", json={"url": "https://photos.example/a"}), 422, "url-unfetchable")


def test_url_fetch_can_be_removed(pair: Pair) -> None:
    client = make_app(pair, URL_FETCH="off").test_client()
    assert_problem(client.post("/predict/url", json={"url": "https://photos.example/"}), 404, "not-found")
    assert "/predict/url" not in client.get("/openapi.json").json["paths"]


def test_a_silent_name_server_leaves_its_place(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(pair, URL_CONCURRENCY="1")
    begun, silent = threading.Event(), threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        begun.set()
        silent.wait(20)
        return ["127.0.0.1"]

    monkeypatch.setattr(state.of(app).fetcher.resolver, "_resolve", resolve)
    ask = lambda: app.test_client().post("/predict/url", json={"url": "http://silent.example/"})  # noqa: E731
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask)
        assert begun.wait(10)
        assert_problem(ask(), 503, "overloaded")
        monkeypatch.setattr("serving.fetch.resolve.PATIENCE", 0)
        monkeypatch.setattr(state.of(app).fetcher.resolver, "_resolve", lambda host, port: ["127.0.0.1"])
        assert_problem(ask(), 422, "url-refused")
        assert_problem(first.result(), 422, "url-unfetchable")
    silent.set()


def test_a_full_queue_is_shed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(pair, QUEUE="2", MAX_PHOTOS="2")
    release, entered = threading.Event(), threading.Semaphore(0)

    def slow(self: Predictor, images: np.ndarray) -> np.ndarray:
        entered.release()
        release.wait(20)
        return np.ones((len(images), 4), np.float32)

    monkeypatch.setattr(Predictor, "scores", slow)
    with ThreadPoolExecutor(2) as clients:
        answers = [clients.submit(lambda: post(app.test_client(), photo())) for _ in range(2)]
        entered.acquire()
        wait_until(lambda: not state.of(app).engine.photos.free)
        assert_problem(post(app.test_client(), photo()), 503, "overloaded")
        release.set()
        assert [answer.result().status_code for answer in answers] == [200, 200]
    assert post(app.test_client(), photo()).status_code == 200


class Unread(io.RawIOBase):
    """A body that must not be read."""

    def readinto(self, _: object) -> int:
        raise AssertionError("the body was read")


def test_a_body_that_is_too_large_is_not_read(pair: Pair) -> None:
    client = make_app(pair, MAX_BYTES="400000", MAX_REQUEST_BYTES="500000").test_client()
    json_paths = {"/predict/url": "70000", "/predict/car": "70000"}
    for path, length in {"/predict/file": "470000", "/predict/files": "500001", **json_paths}.items():
        environ = {"wsgi.input": Unread(), "CONTENT_LENGTH": length}
        kind = "application/json" if path in json_paths else "multipart/form-data; boundary=x"
        assert_problem(client.post(path, content_type=kind, environ_overrides=environ), 413, "too-many-bytes")


def test_a_fetched_photo_needs_room(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(pair, MAX_BYTES="400000", MAX_REQUEST_BYTES="500000", MAX_BYTES_IN_FLIGHT="600000")
    budget, client = state.of(app).bytes, app.test_client()

    def url() -> TestResponse:
        return client.post("/predict/url", json={"url": "https://photos.example/a"})

    monkeypatch.setattr("serving.fetch.client.Fetcher.fetch", lambda self, url: bytes(400_000))
    assert budget.take(200_001)
    assert_problem(url(), 503, "overloaded")
    budget.give(1)
    assert_problem(url(), 400, "not-a-photo")
    assert budget.free == 400_000  # whatever came of them, nothing is held any more


def test_ready_fails_with_the_model_and_recovers(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(pair)
    client = app.test_client()
    assert client.get("/readyz").status_code == 200
    monkeypatch.setattr("serving.engine.engine.CHECK_AGE", 0)

    def broken(self: Predictor, images: np.ndarray) -> np.ndarray:
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as context:
        context.setattr(Predictor, "scores", broken)
        assert_problem(client.get("/readyz"), 503, "not-ready")
        assert_problem(post(client, photo()), 500, "internal")
    assert client.get("/readyz").status_code == 200 and post(client, photo()).status_code == 200


def hold_photos(app: Flask, monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Photos are decoded when they are let go, one after the other, or after half a minute."""
    pixels = np.zeros((state.of(app).engine.deployment.predictor.image_size,) * 2 + (3,), np.uint8)
    free = threading.Semaphore(0)
    monkeypatch.setattr("serving.engine.deployment.decode", lambda *_, **__: free.acquire(timeout=30) and pixels)
    return free


def test_ready_under_full_load(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(pair, WORKERS="1", THREADS="1", QUEUE="10", MAX_PHOTOS="10", MAX_BATCH="1")
    free = hold_photos(app, monkeypatch)
    monkeypatch.setattr("serving.engine.engine.CHECK_SECONDS", 20)
    with ThreadPoolExecutor(2) as clients:
        load = clients.submit(lambda: post(app.test_client(), *[photo()] * 10, path="/predict/files"))
        wait_until(lambda: not state.of(app).engine.photos.free)
        check = clients.submit(lambda: app.test_client().get("/readyz"))
        wait_until(lambda: len(state.of(app).engine.batcher._raw) == 10)  # one photo of the ten is being decoded
        free.release(2)
        assert check.result().status_code == 200 and not load.done()
        free.release(9)


def test_a_request_has_one_deadline_and_leaves_nothing_behind(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(pair, WORKERS="1", THREADS="1", MAX_BATCH="1", REQUEST_SECONDS="0.5")
    free = hold_photos(app, monkeypatch)
    started = time.monotonic()
    assert_problem(post(app.test_client(), *[photo()] * 8, path="/predict/files"), 503, "overloaded")
    assert time.monotonic() - started < 10
    assert not state.of(app).engine.batcher._raw
    free.release()


def test_a_stuck_process_says_so(pair: Pair) -> None:
    app = make_app(pair)
    state.of(app).engine.batcher.give_up()
    client = app.test_client()
    for answer in (client.get("/healthz"), client.get("/readyz"), post(client, photo())):
        assert_problem(answer, 503, "not-ready")


def test_nan_is_no_verdict(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_app(pair).test_client()
    monkeypatch.setattr(Predictor, "scores", lambda self, images: np.full((len(images), 4), np.nan, np.float32))
    assert_problem(post(client, photo()), 500, "internal")


def test_token(pair: Pair) -> None:
    token = "".join(map(chr, range(0x21, 0x7F))).replace("=", "") + "=="  # every sign that it may have
    client = make_app(pair, API_TOKEN=token).test_client()
    for value in (None, "Bearer wrong-horse", "Basic Y29ycmVjdC1ob3JzZTo=", "Bearer", token, "Bearer correct-horsë"):
        for path in ("/predict/file", "/predict/files", "/predict/url"):
            refused = client.post(path, headers={} if value is None else {"Authorization": value})
            assert_problem(refused, 401, "unauthorized")
            assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert post(client, photo(), headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert client.get("/readyz").status_code == 200


def test_model_tells_where_answers_come_from(pair: Pair) -> None:
    app = make_app(pair, T_HIGH="0.9", T_LOW="0.2", GIT_COMMIT="abc123")
    model = app.test_client().get("/model").json
    assert model["T_clean"] == 0.9 and model["T_low"] == 0.2 and model["override"] == {"T_HIGH": 0.9, "T_LOW": 0.2}
    assert model["threshold_json"]["T_clean"] == 0.75 and model["threshold_json"]["certified"] is True
    assert model["certified"] is False  # nobody certified 0.9
    assert model["provider"] == "CPUExecutionProvider" and model["git_commit"] == "abc123"
    assert len(model["model_sha256"]) == 64 and model["version"].endswith(model["model_sha256"][:12])
    answer = post(app.test_client(), photo(200)).json
    assert answer["label"] == "uncertain" and answer["model"] == model["version"]


def test_request_ids(client: FlaskClient) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "abc-1.2_3"}).headers["X-Request-ID"] == "abc-1.2_3"
    for bad in ("a b", "x" * 65, "<script>", "ä", ""):
        made = client.get("/healthz", headers={"X-Request-ID": bad}).headers["X-Request-ID"]
        assert re.fullmatch("[0-9a-f]{32}", made)


def test_logs_tell_no_secrets(app: Flask) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("serving.request")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        client = app.test_client()
        headers = {"X-Request-ID": "mine", "Authorization": "Bearer s3cret"}
        post(client, photo(255), path="/predict/file?secret=1", headers=headers)
        client.post("/predict/url", json={"url": "http://127.0.0.1/?secret=2"})
    finally:
        logger.removeHandler(handler)
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["id"] == "mine" and first["status"] == 200 and first["verdict"] == "clean" and first["ms"] > 0
    assert first["path"] == "/predict/file" and second["problem"] == "URL_REFUSED"
    assert first["client"] == "127.0.0.1" and first["received"] > len(photo(255)) and first["sent"] > 50
    assert "secret" not in stream.getvalue() and "s3cret" not in stream.getvalue()


@pytest.mark.parametrize(
    ("proxies", "client"), [("0", "127.0.0.1"), ("1", "10.0.0.2"), ("2", "203.0.113.7"), ("3", "127.0.0.1")]
)
def test_only_stated_proxies_name_the_client(pair: Pair, proxies: str, client: str) -> None:
    app = make_app(pair, TRUSTED_PROXIES=proxies)
    seen: list[str | None] = []
    app.after_request(lambda response: seen.append(flask.request.remote_addr) or response)
    app.test_client().get("/healthz", headers={"X-Forwarded-For": "203.0.113.7, 10.0.0.2"})
    assert seen == [client]


def test_a_token_for_what_the_service_says_of_itself(pair: Pair) -> None:
    client = make_app(pair, STATUS_TOKEN="correct-horse").test_client()
    paths = ("/metrics", "/model", "/card", "/docs", "/docs/js/swagger-ui-bundle.js", "/openapi.json")
    for path in paths:
        for wrong in ({}, {"auth": ("any", "wrong-horse")}, {"headers": {"Authorization": "Bearer wrong-horse"}}):
            refused = client.get(path, **wrong)
            assert_problem(refused, 401, "unauthorized")
            # Basic has a browser ask its user; the page at / asks for /model, and must not have it do so.
            assert refused.headers["WWW-Authenticate"] == ("Basic" if path.startswith("/docs") else "Bearer")
        assert client.get(path, auth=("any", "correct-horse")).status_code == 200
        assert client.get(path, headers={"Authorization": "Bearer correct-horse"}).status_code == 200
    for path in ("/", "/healthz", "/readyz"):
        assert client.get(path).status_code == 200
    assert post(client, photo()).status_code == 200


def test_metrics_of_the_model_in_service(pair: Pair) -> None:
    app = make_app(pair, T_LOW="0.25")
    text = app.test_client().get("/metrics").text
    served = state.of(app).engine.deployment
    labels = f'certified="true",precision="fp32",version="{served.version}"'
    assert f"dirtycar_model_info{{{labels}}} 1.0\n" in text
    assert "\ndirtycar_t_clean 0.75\n" in text and "\ndirtycar_t_low 0.25\n" in text


def test_metrics_tell_why_requests_are_shed(pair: Pair) -> None:
    app = make_app(pair, URL_CONCURRENCY="1", QUEUE="1", MAX_PHOTOS="1")
    client = app.test_client()

    def shed() -> list[float]:
        text = client.get("/metrics").text
        reasons = ("fetches", "queue", "stuck", "not_ready")
        return [samples(text, "dirtycar_unavailable_total", reason=reason) for reason in reasons]

    before = shed()
    state.of(app).fetching.acquire()
    client.post("/predict/url", json={"url": "https://photos.example/"})
    state.of(app).engine.photos.take(1)
    post(client, photo())
    state.of(app).engine.photos.give(1)
    state.of(app).engine.batcher.give_up()
    post(client, photo())
    client.get("/healthz")
    assert shed() == [count + 1 for count in before]


def test_metrics(client: FlaskClient) -> None:
    post(client, photo(255))
    client.get("/nope/1")
    client.get("/nope/2")
    text = client.get("/metrics").text
    for name in ("requests_total", "request_seconds_bucket", "queue_wait_seconds_bucket", "batch_size_bucket",
                 "verdicts_total", "p_clean_bucket", "photos_in_flight", "decode_seconds_bucket",
                 "model_seconds_bucket", "fetch_seconds_bucket", "threads_busy", "workers_stuck_total"):  # fmt: skip
        assert f"\ndirtycar_{name}" in text
    assert 'path="/predict/file",status="200"' in text and "/nope" not in text and 'path="other",status="404"' in text


def test_openapi_describes_every_path(client: FlaskClient) -> None:
    assert set(client.get("/openapi.json").json["paths"]) == {
        "/predict/file", "/predict/files", "/predict/url", "/predict/car", "/explain/file",
        "/healthz", "/readyz", "/model", "/metrics"}  # fmt: skip


def test_pages_load_nothing_from_elsewhere(client: FlaskClient) -> None:
    for path in ("/", "/docs", "/static/app.js", "/static/style.css", "/static/docs.js"):
        assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", client.get(path).text), path
    assert client.get("/").headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_a_model_of_drawn_cars_says_so(client: FlaskClient, tmp_path: Path) -> None:
    report = json.loads((ROOT / "reports/split_check.json").read_text())
    drawn = make_app(write_pair(tmp_path, data_version=report["train_version"])).test_client()
    for served, says in ((drawn, True), (client, False)):
        assert ('id="drawn" hidden' in served.get("/").text) != says
        assert served.get("/model").json["trained_on_drawings"] == says


def test_uploads_stay_in_memory(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_file(*_: object, **__: object) -> None:
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr("werkzeug.formparser.SpooledTemporaryFile", no_file)
    app = make_app(pair)
    large = photo(size=(900, 900), kind="BMP")  # 2.4 MB; what werkzeug alone lets lie in memory ends at 0.5 MB
    assert post(app.test_client(), large).status_code == 200
    with (
        app.test_request_context(method="POST", data={"file": (io.BytesIO(large), "a.bmp")}),
        pytest.raises(AssertionError, match="temporary"),
    ):
        _ = flask.request.files  # Flask's own makes one


def test_the_service_needs_no_training_library() -> None:
    code = "import sys, serving.app, serving.batch; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in ("torch", "torchvision", "timm", "dvc", "stages"):
        assert f"'{name}'" not in loaded


def test_a_photo_for_which_there_is_no_memory_costs_only_its_own_answer(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is wrong with it: it is to be sent again."""

    def decode(data: bytes, size: int, **_: object) -> np.ndarray:
        if data.startswith(b"\x89PNG"):
            raise MemoryError
        return np.zeros((size, size, 3), np.uint8)

    client = make_app(pair).test_client()
    monkeypatch.setattr("serving.engine.deployment.decode", decode)
    answers = post(client, photo(), photo(kind="PNG"), photo(), path="/predict/files").get_json()
    assert [answer.get("status", 200) for answer in answers] == [200, 503, 200]
    assert_problem(post(client, photo(kind="PNG")), 503, "overloaded")


def test_costly_photos_hold_up_no_others(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait for decoders; a request's ordinary photos, and other requests, do not."""
    app = make_app(pair, REQUEST_SECONDS="4", STUCK_SECONDS="8")
    decoders = pool.shared(state.of(app).settings.threads, state.of(app).settings.decode_memory)
    monkeypatch.setattr(decoders, "_places", 0)
    with ThreadPoolExecutor(1) as client:
        waiting = client.submit(lambda: post(app.test_client(), photo(kind="PNG"), photo(), path="/predict/files"))
        wait_until(lambda: state.of(app).engine.photos.free < state.of(app).settings.queue)
        assert post(app.test_client(), photo()).status_code == 200 and not waiting.done()
        assert [answer.get("status", 200) for answer in waiting.result().get_json()] == [503, 200]
