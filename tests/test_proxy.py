"""deploy/Caddyfile before the real service: TLS, whole requests, limits, the client's own address."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sysconfig
import time
from collections.abc import Iterator

import pytest
import requests

from tests.support.live import ROOT, Live, free_port, photo, running, wait_until
from tests.support.onnx_models import write_pair
from tests.support.raw_http import read, request

CADDY = shutil.which("caddy", path=sysconfig.get_path("scripts"))  # not the system's, which may be too old
pytestmark = [
    pytest.mark.skipif(CADDY is None, reason="needs tests/requirements.txt"),
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("proxy")
    settings = {"WORKERS": "1", "TRUSTED_PROXIES": "1", "REQUEST_SECONDS": "6"}
    with running(write_pair(folder / "pair", t_clean=0.6), folder, **settings) as live:
        yield live


@pytest.fixture(scope="module")
def port(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Caddy's for https, with the certificate of an authority of its own."""
    folder, port = tmp_path_factory.mktemp("caddy"), free_port()
    text = (ROOT / "deploy" / "Caddyfile").read_text().replace("dirtycar:8000", f"127.0.0.1:{live.port}")
    own = f"{{\n\tadmin off\n\tskip_install_trust\n\thttp_port {free_port()}\n"  # nothing outside of this folder
    (folder / "Caddyfile").write_text(text.replace("{\n", own, 1))
    env = {"PATH": os.environ["PATH"], "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    env["DOMAIN"] = f"localhost:{port}"
    command = [str(CADDY), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(port) or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        yield port
    finally:
        process.terminate()
        process.wait(60)


def answers(port: int) -> bool:
    try:
        return requests.get(f"https://localhost:{port}/readyz", verify=False, timeout=5).ok
    except requests.RequestException:
        return False


def connect(port: int) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    raw = socket.create_connection(("localhost", port), timeout=20)
    return context.wrap_socket(raw, server_hostname="localhost")


def post(port: int, *photos: bytes, **headers: str) -> requests.Response:
    parts = [("file", ("a", data)) for data in photos]
    return requests.post(
        f"https://localhost:{port}/predict/files", files=parts, headers=headers, verify=False, timeout=60
    )


def test_photos_and_the_address_of_who_sent_them(live: Live, port: int) -> None:
    assert [one["label"] for one in post(port, photo(255), photo(0), **{"X-Forwarded-For": "6.6.6.6"}).json()] == [
        "clean", "dirty",
    ]  # fmt: skip
    lines = [json.loads(line) for line in live.log.read_text().splitlines()]
    assert [line["client"] for line in lines if line.get("path") == "/predict/files"] in (["127.0.0.1"], ["::1"])


def test_a_request_of_60_mb_passes(port: int) -> None:
    padded = photo(255) + bytes(20_000_000)
    assert [one["label"] for one in post(port, padded, padded, padded).json()] == ["clean"] * 3


@pytest.mark.slow
def test_slow_clients_wait_at_the_proxy(live: Live, port: int) -> None:
    """A body slower than the service would take still arrives, for the proxy hands it on when it has the whole."""
    data = request(photo(255), b"Connection: close\r\n").replace(b"Host: x", b"Host: localhost")
    with connect(port) as slow, connect(port) as silent:
        silent.sendall(data[:40])
        for place in range(0, 500, 100):
            slow.sendall(data[place : place + 100])
            time.sleep(1.5)
        slow.sendall(data[500:])
        answer = read(slow, 30)
        assert answer is not None and answer.startswith(b"HTTP/1.1 200")
        assert read(silent, 30) is not None, "half a head stayed"
