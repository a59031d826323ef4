"""The event loop in front of the threads: framing, slow clients, room, stopping."""

import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser

from serving.front.body import Body, ChunkedBody, Received
from serving.front.connection import Connection, State
from serving.front.handshakes import refuse_handshakes
from serving.front.limits import ClientLimits, Connections, Overdue, Room, overdue
from serving.web.state import Budget
from tests.support.live import ROOT, Live, free_port, photo, retry_until_refused, running, samples, wait_until
from tests.support.onnx_models import Pair, write_pair
from tests.support.raw_http import FORM, PART, read, request

CFG = Config()
LIMITS = ClientLimits(seconds=10, idle=30, connections=4, per_address=3)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"), t_clean=0.6)


@pytest.fixture(scope="module")
def live(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with running(
        pair, tmp_path_factory.mktemp("front"), WORKERS="1", REQUEST_SECONDS="3", HEALTH_PORT=str(free_port())
    ) as live:
        yield live


def connect(live: Live) -> socket.socket:
    return socket.create_connection(("127.0.0.1", live.port), timeout=30)


def test_connections_are_counted_over_both_ports(live: Live) -> None:
    def counted() -> float:
        return samples(requests.get(live.url + "/metrics", timeout=10).text, "dirtycar_connections")

    with ExitStack() as opened:
        for _ in range(5):
            opened.enter_context(connect(live))
        wait_until(lambda: counted() >= 5)
        for _ in range(10):  # over some sweeps of both
            assert counted() >= 5
            time.sleep(0.1)
    wait_until(lambda: counted() < 5)


def ask(live: Live, data: bytes) -> bytes:
    """All that comes back until the service closes."""
    with connect(live) as connection:
        connection.sendall(data)
        answer = read(connection, 30)
    assert answer is not None, "the connection stayed open"
    return answer


def chunked_body() -> ChunkedBody:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return ChunkedBody(Request(CFG, Received(head), ("127.0.0.1", 1)))


def connection(address: str = "10.0.0.1", state: State = State.BODY) -> Connection:
    one, other = socket.socketpair()
    other.close()
    made = Connection(one, (address, 1), ("127.0.0.1", 2))
    made.enter(state)
    return made


CHUNKS = b"5\r\nhello\r\n0b;a=b\r\n, and more.\r\n0000\r\nX-Trailer: 1\r\n\r\n"


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000])
def test_chunks_in_pieces_of_any_size_are_the_same_body(piece: int) -> None:
    body, data = chunked_body(), bytearray()
    for start in range(0, len(CHUNKS + b"GET"), piece):
        assert not body.complete or start >= len(CHUNKS)
        data = body.feed(data + (CHUNKS + b"GET")[start : start + piece])
    assert body.complete and data == b"GET" and body.read() == b"hello, and more." == body.read() + b"hello, and more."


@pytest.mark.parametrize(
    "chunks",
    [b"zz\r\n", b"-1\r\n", b"\r\n", b"1\r\nabc", b"2\r\nabc\r\n", b"1" * 9000, b"1;\x01\r\n", b"1\n", b"0x1\r\na\r\n",
     b"0\r\nContent-Length: 3\r\n\r\n", b"0\r\nX: " + b"x" * 70_000, b"1\r\na\r\n" * 3000, b"1 1\r\na\r\n"],
)  # fmt: skip
def test_chunks_that_are_none_are_refused(chunks: bytes) -> None:
    with pytest.raises(ParseException):
        chunked_body().feed(bytearray(chunks + b"\r\n"))


def test_a_body_of_small_pieces_takes_little_more_memory_than_its_bytes() -> None:
    body = Body(100_000)
    for _ in range(100_000):
        body.feed(bytearray(b"x"))
    assert body.complete and len(body._blocks) == 1 and body.read() == b"x" * 100_000 and not body._blocks


def test_who_is_overdue(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def after(seconds: float, state: State, *, moved: int = 0, received: bytes = b"", short: bool = False,
              stopping: float | None = None, requests: int = 0) -> Overdue | None:  # fmt: skip
        one = connection(state=state)
        one.progress = one.since = now - seconds
        one.moved, one.received, one.requests = moved, bytearray(received), requests
        return overdue(one, LIMITS, short=short, stopping=stopping)

    assert after(6, State.HEAD) is Overdue.IDLE and after(4, State.HEAD) is None
    assert after(6, State.HEAD, requests=1) is None and after(31, State.HEAD, requests=1) is Overdue.IDLE
    assert after(6, State.HEAD, requests=1, stopping=now - 3) is Overdue.IDLE
    assert after(6, State.HEAD, requests=1, stopping=now - 1) is None  # its last request may be on its way
    assert after(6, State.HEAD, received=b"GET") is Overdue.HEAD and after(4, State.HEAD, received=b"GET") is None
    for state, reason in ((State.BODY, Overdue.BODY), (State.ANSWER, Overdue.ANSWER)):
        assert after(9, state) is None and after(11, state) is reason
        assert after(11, state, moved=11 * 8 * 1024) is None and after(11, state, moved=80_000) is reason
        assert after(3, state, short=True) is Overdue.ROOM and after(1, state, short=True) is None
    assert after(1000, State.WORK) is None and after(3, State.LINGER) is Overdue.LINGER


def test_bodies_wait_for_room_and_one_of_them_goes_on() -> None:
    budget, resumed = Budget(1000), []
    room, bodies = Room(budget, 100, resumed.append), [connection() for _ in range(3)]
    for body in bodies:
        assert room.allows(body)
        room.hold(body, 400)
    assert budget.free == -200 and not any(room.allows(body) for body in bodies) and not room.short
    for body in bodies:
        room.pause(body)
    room.resume()
    room.resume()
    assert resumed == bodies[:1] and room.allows(bodies[0]) and not room.allows(bodies[1]) and room.short
    room.hold(bodies[0], 0)
    bodies[0].close()
    room.resume()
    assert resumed == bodies and not room.short and budget.free == 200


def test_one_connection_too_many_takes_the_place_of_the_stalest() -> None:
    connections, busy, old = Connections(LIMITS), connection(state=State.WORK), connection()
    assert connections.enter(busy) is None and connections.enter(old) is None
    assert connections.enter(connection()) is None and connections.enter(connection()) is old  # of one address
    connections.leave(old)
    assert connections.enter(connection("10.0.0.2")) is None
    assert connections.enter(connection("10.0.0.3")) not in (None, busy)  # of all
    assert (
        connection("2001:db8::1").address == connection("2001:db8::2").address != connection("2001:db8:0:1::").address
    )
    assert connection("::ffff:10.0.0.1").address == "10.0.0.1"


def test_a_listener_that_refuses_handshakes_keeps_those_that_were_made() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as before:
            refuse_handshakes(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.2)
            before.sendall(b"hello")
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(5) == b"hello"


def test_what_gunicorn_imports_before_it_forks_starts_no_thread_of_onnx_runtime() -> None:
    code = "import sys, serving.process.worker, serving.front.handshakes; sys.exit('onnxruntime' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    "lines",
    [b"Content-Length: 5\r\nContent-Length: 5\r\n", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
     b"Transfer-Encoding: chunked, identity\r\n", b"Transfer-Encoding: xchunked\r\n", b"Content-Length: +5\r\n",
     b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: 0x5\r\n",
     b"Transfer-Encoding : chunked\r\n", b"Content-Length: 5, 5\r\n", b"Host: y\r\n", b"X: a\nContent-Length: 5\r\n"],
)  # fmt: skip
def test_an_ambiguous_message_is_refused_and_nothing_behind_it_is_read(live: Live, lines: bytes) -> None:
    head = b"POST /predict/file HTTP/1.1\r\nHost: x\r\n" + FORM + lines + b"\r\n"
    answer = ask(live, head + b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) in ([b"400"], [b"501"])


def test_errors_of_the_protocol_are_problems_too(live: Live) -> None:
    wrong = {
        b"GET / HTTP/9.9\r\n\r\n": 400,
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n": 414,
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"x" * 9000 + b"\r\n\r\n": 431,
        b"GET / HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n": 417,
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: br\r\n\r\n": 501,
        b"GET / HTTP/1.1\r\nHost: x": 408,
        b"POST /predict/file HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n" + FORM + b"\r\n": 408,
    }
    with ThreadPoolExecutor(len(wrong)) as clients:
        answers = list(clients.map(lambda data: ask(live, data), wrong))
    for (data, status), answer in zip(wrong.items(), answers, strict=True):
        head, _, body = answer.partition(b"\r\n\r\n")
        problem = json.loads(body)
        assert head.startswith(b"HTTP/1.1 %d " % status) and b"application/problem+json" in head, (data, head)
        assert problem["status"] == status and problem["type"].startswith("urn:dirtycar:problem:")


@pytest.mark.parametrize("header", [b"PATH_INFO: /model", b"Path_Info: /predict/file", b"SCRIPT_NAME: /healthz"])
def test_no_header_changes_the_path(live: Live, header: bytes) -> None:
    """gunicorn takes these from a proxy on the same host, which hands on what its clients send."""
    answer = ask(live, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + header + b"\r\n\r\n")
    assert answer.endswith(b'{"status":"ok"}\n') or answer.startswith(b"HTTP/1.1 400 ")


def test_what_needs_no_body_is_answered_without_it(live: Live) -> None:
    form = b"Host: x\r\nExpect: 100-continue\r\n" + FORM
    for head, status in (
        (b"POST /nope HTTP/1.1\r\nContent-Length: 9000000\r\n" + form, 404),
        (b"POST /healthz HTTP/1.1\r\nContent-Length: 9000000\r\n" + form, 405),
        (b"POST /predict/file HTTP/1.1\r\nContent-Length: 99000000\r\n" + form, 413),
        (b"POST /predict/url HTTP/1.1\r\nContent-Length: 900\r\n" + form, 415),
    ):
        answer = ask(live, head + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 %d " % status) and b"Connection: close" in answer


def test_expect_continue_and_pipelining(live: Live) -> None:
    head, body = request(photo(255), b"Expect: 100-continue\r\n").split(b"\r\n\r\n", 1)
    with connect(live) as one:
        one.sendall(head + b"\r\n\r\n")
        assert one.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        one.sendall(body + request(photo(0)) + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = read(one, 30)
    assert answer is not None and re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200"] * 3
    assert answer.index(b"clean") < answer.index(b"dirty")


def test_a_client_that_is_gone_costs_nothing_and_one_that_sends_no_more_is_answered(live: Live) -> None:
    data = request(photo(255))
    for sent in (data[:60], data[:-9], data):
        with connect(live) as half_closed, connect(live) as reset:
            for one in (half_closed, reset):
                one.sendall(sent)
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            reset.close()
            half_closed.shutdown(socket.SHUT_WR)
            answer = read(half_closed, 30)
        assert answer is not None and answer[9:12] == {60: b"", len(data) - 9: b"400", len(data): b"200"}[len(sent)]
    assert live.send(photo(255)).ok


def test_announced_bytes_take_no_room(pair: Pair, tmp_path: Path) -> None:
    """Nor do connections, silent ones, and those that do not read, take another's place."""
    small = {"MAX_BYTES": "1000000", "MAX_REQUEST_BYTES": "1000000", "MAX_BYTES_IN_FLIGHT": "1000000"}
    announced = b"POST /predict/files HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n" + FORM + b"\r\n"
    deaf = b"GET /docs/js/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 9
    with running(pair, tmp_path, WORKERS="1", QUEUE="4", MAX_PHOTOS="4", CONNECTIONS="50", **small) as live:
        slow = [connect(live) for _ in range(90)]
        for one, data in zip(
            slow, (announced, announced + PART, deaf, b"GET /", b"", request(photo())[:-9]) * 15, strict=True
        ):
            one.sendall(data)
        began = time.monotonic()
        assert all(live.send(photo(255)).ok for _ in range(3))
        assert requests.get(live.url + "/healthz", timeout=5).ok and time.monotonic() - began < 10  # of 30 a request
        metrics = requests.get(live.url + "/metrics", timeout=5).text
        assert samples(metrics, "dirtycar_clients_cut_off_total", reason="connections") >= 40
        for one in slow:
            one.close()


def test_probes_have_a_port_of_their_own(live: Live) -> None:
    port = next(json.loads(line) for line in live.log.read_text().splitlines() if "Listening at" in line)["message"]
    probes = re.findall(r"http://[\d.]+:\d+", port)[1]
    for path in ("/healthz", "/readyz", "/metrics"):
        assert requests.get(probes + path, timeout=5).ok
    assert requests.get(probes + "/model", timeout=5).status_code == 404
    assert requests.post(probes + "/predict/file", files={"file": ("a", photo())}, timeout=5).status_code == 404


def test_a_stopping_server_loses_no_request_of_clients_that_retry_on_refusal(pair: Pair, tmp_path: Path) -> None:
    ends: Counter[str] = Counter()
    every_time_anew = threading.Event()
    every_time_anew.set()
    with running(pair, tmp_path, WORKERS="1") as live, ThreadPoolExecutor(8) as clients:
        for _ in range(8):
            clients.submit(retry_until_refused, live, photo(255), ends, every_time_anew)
        wait_until(lambda: ends["200"] > 50)
        os.kill(live.pid, signal.SIGTERM)
    assert set(ends) == {"200"}


def test_a_head_byte_by_byte_is_parsed_once_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of clients may send theirs so."""
    parsed = []
    monkeypatch.setattr("serving.front.connection.Request", lambda *given: parsed.append(1) or Request(*given))
    one, head = connection(state=State.HEAD), b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 500 + b"\r\n\r\n"
    for place in range(len(head)):
        one.received += head[place : place + 1]
        assert one.advance(CFG, lambda _: None) == (place == len(head) - 1)
    assert len(parsed) == 1 + head.count(b"\n")


MESSAGES = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX: y\r\nZ: 1\r\n\r\n",
    b"POST /c HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"\r\n",
    b"GET /d HTTP/1.0\r\n\r\n",
)
INSERTS = (b"\r\n", b"\n", b"0", b"\r\n\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n")


def mutant(rng: random.Random) -> bytes:
    """Messages behind each other, some of them spoiled where it matters for their lengths."""
    data = bytearray(b"".join(rng.choice(MESSAGES) for _ in range(rng.randrange(1, 4))))
    for _ in range(rng.choice((0, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.choice((0, 0, 1, 3))] = rng.choice(
            (*INSERTS, b"", rng.choice(b"\r\n 0123;:,aA\0\xff").to_bytes())
        )
    return bytes(data)


def by_gunicorn(data: bytes) -> list[object]:
    """The requests that gunicorn finds in a stream, and `wrong` where it stops for one that is none."""
    found: list[object] = []
    try:
        for message in RequestParser(CFG, iter([data]), ("127.0.0.1", 1)):
            found.append((message.method, message.path, message.body.read()))
    except (ParseException, OSError):  # its NoMoreData is an OSError
        found.append("wrong")
    return found


def in_pieces(data: bytes, rng: random.Random) -> list[object]:
    """The same by a Connection that gets a few bytes at a time."""
    found: list[object] = []
    one = connection(state=State.HEAD)
    try:
        while data or one.received:
            ready = bool(one.received) and one.advance(CFG, lambda _: 10**9)
            while not ready:
                if not data:
                    return found
                count = rng.choice((1, 2, 5, 50, 1000))
                one.received += data[:count]
                data = data[count:]
                ready = one.advance(CFG, lambda _: 10**9)
            assert one.request is not None and one.body is not None
            found.append((one.request.method, one.request.path, one.body.read()))
            if one.request.should_close():
                break
            one.forget_request()
            one.enter(State.HEAD)
    except ParseException:
        found.append("wrong")
    finally:
        one.close()
    return found


def test_requests_begin_and_end_where_gunicorn_says() -> None:
    """However they arrive: nothing that one calls a body is a request to the other."""
    rng = random.Random(0)
    for _ in range(2000):
        data = mutant(rng)
        found, expected = in_pieces(data, rng), by_gunicorn(data)
        assert found == expected[: len(found)], data  # what is cut short is waited for
        assert len(found) >= len(expected) - 1, data
