"""What may be fetched, and how: hostile URLs, hostile names and hostile servers."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import trustme

from serving.fetch.client import Fetcher, UrlTooLarge, UrlUnfetchable
from serving.fetch.policy import FetchPolicy, UrlError, UrlRefused, check_addresses, check_url, host_pattern
from serving.fetch.resolve import Resolver, system_resolve
from serving.settings import Settings, SettingsError

HOSTILE_HOSTS = """
127.0.0.1 127.1 127.0.1 0 0.0.0.0 2130706433 017700000001 0x7f000001 0x7f.0.0.1 0x7f.1 0177.0.0.1 127.0.0.01
00127.0.0.1 127.0.0.1. 127.0.0.0x1 127.0.0.1.0x １２７.０.０.１ 127。0。0。1 ①②⑦.⓪.⓪.① localhost LOCALHOST localhost.
10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 2852039166 0xa9fea9fe 100.64.0.1 100.100.100.200
168.63.129.16 192.0.0.192 198.18.0.1 192.0.2.1 203.0.113.9 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
[::1] [::] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:8.8.8.8] [::127.0.0.1] [64:ff9b::7f00:1]
[64:ff9b::a9fe:a9fe] [64:ff9b:1::1] [2002:7f00:1::] [2001::1] [2001:db8::1] [fe80::1] [fe80::1%25eth0]
[2606:4700::1%eth0] [fc00::1] [fd00:ec2::254] [fec0::1] [ff02::1] [127.0.0.1]
user@8.8.8.8 user:pass@8.8.8.8 8.8.8.8@127.0.0.1 8.8.8.8%40127.0.0.1 8.8.8.8\\@127.0.0.1
8.8.8.8:22 8.8.8.8:6379 8.8.8.8:0 8.8.8.8:99999 8.8.8.8:-80 8.8.8.8:80:80 ⓔxample.com:22
-example.com example..com exam%70le.com .example.com *.example.com
"""
HOSTILE = [f"http://{host}/" for host in HOSTILE_HOSTS.split()] + [
    "http://[::1",
    "http:\\\\127.0.0.1/",
    "http:///etc/passwd",
    "http:127.0.0.1",
    "http://",
    "//8.8.8.8/",
    "8.8.8.8",
    "ftp://8.8.8.8/a.jpg",
    "file:///etc/passwd",
    "gopher://8.8.8.8/",
    "data:image/png;base64,AAAA",
    "javascript:alert(1)",
    "dict://8.8.8.8:11211/",
    "",
    "http://exam ple.com/",
    "http://exa\tmple.com/",
    "http://8.8.8.8/\r\nHost: x",
    "\x00http://example.com/",
    " http://example.com/",
    "http://" + "a" * 64 + ".com/",
    "http://" + "a." * 130 + "com/",
    "http://example.com/" + "a" * 3000,
]


@pytest.fixture(scope="module")
def fetcher() -> Fetcher:
    return Fetcher.from_settings(Settings(url_seconds=5, url_max_bytes=1000, url_concurrency=2))


@pytest.mark.parametrize("url", HOSTILE)
def test_hostile_url_is_refused_before_any_connection(
    url: str, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_connection(*_: object, **__: object) -> None:
        raise AssertionError("it connected")

    monkeypatch.setattr("httpcore.SyncBackend.connect_tcp", no_connection)
    with pytest.raises(UrlRefused):
        fetcher.fetch(url)


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("http://example.com", "example.com", "/"),
        ("https://EXAMPLE.com:443/a%20b.jpg", "example.com", "/a%20b.jpg"),
        ("https://example.com./a.jpg?x=1&y=%2F#part", "example.com", "/a.jpg?x=1&y=%2F"),
        ("http://8.8.8.8:443/a.jpg", "8.8.8.8:443", "/a.jpg"),
        ("http://[2606:4700:0::1]/", "[2606:4700::1]", "/"),
        ("https://[2606:4700::1]:8443/", "[2606:4700::1]:8443", "/"),
        ("https://müller.example/größe.jpg", "xn--mller-kva.example", "/gr%C3%B6%C3%9Fe.jpg"),
        ("http://my_bucket.s3.example.com/a+b.jpg", "my_bucket.s3.example.com", "/a+b.jpg"),
    ],
)
def test_plain_urls_pass(url: str, authority: str, path: str) -> None:
    target = check_url(url, FetchPolicy(ports={80, 443, 8443}))
    assert (target.authority, target.path) == (authority, path)


def test_one_private_address_among_public_ones_refuses_all() -> None:
    public = ["8.8.8.8", "1.1.1.1", "2606:4700::1", "2a00:1450::8a"]
    assert check_addresses(public, FetchPolicy()) == [ip_address(address) for address in public]
    for addresses in ([*public, "10.0.0.1"], []):
        with pytest.raises(UrlRefused):
            check_addresses(addresses, FetchPolicy())


def test_host_lists() -> None:
    policy = FetchPolicy(allow_hosts={"a.example", ".b.example"}, deny_hosts={"bad.b.example"})
    for host in ("a.example", "b.example", "x.b.example"):
        check_url(f"https://{host}/", policy)
    for host in ("x.a.example", "bad.b.example", "ab.example", "c.example"):
        with pytest.raises(UrlRefused):
            check_url(f"https://{host}/", policy)


@pytest.mark.parametrize(
    ("pattern", "matched", "not_matched"),
    [
        ("x.example.", "x.example", "y.x.example"),
        ("X.EXAMPLE", "x.example.", "xx.example"),
        (".x.example.", "y.x.example", "yx.example"),
        ("müller.example", "xn--mller-kva.example", "muller.example"),
        (".xn--mller-kva.example", "www.MÜLLER.example", "muller.example"),
        ("8.8.8.8", "8.8.8.8", "8.8.4.4"),
        ("[2606:4700:0::1]", "[2606:4700::1]", "[2606:4700::2]"),
        ("2606:4700::1", "[2606:4700:0:0::1]", "[2606:4700::2]"),
    ],
)
def test_patterns_match_every_spelling_of_a_host(pattern: str, matched: str, not_matched: str) -> None:
    policy = FetchPolicy(allow_hosts={host_pattern(pattern)})
    check_url(f"https://{matched}/", policy)
    with pytest.raises(UrlRefused):
        check_url(f"https://{not_matched}/", policy)


@pytest.mark.parametrize(
    "value",
    ["*.x.example", "*", "x.example:443", "https://x.example", "10.0.0.0/8", "x.example/a", ".", "..x", "a b", "x..y",
     "-x.example", "0x7f.1", "8.8.8.8", ".8.8.8.8", "2606:4700::1", "[2606:4700::1]:80", "user@x.example"],
)  # fmt: skip
def test_a_denied_host_that_would_match_nothing_stops_the_start(value: str) -> None:
    with pytest.raises(SettingsError, match="URL_DENY_HOSTS") as error:
        Settings.from_env({"URL_DENY_HOSTS": f"fine.example, {value}"})
    assert repr(value) in str(error.value)


def test_denied_networks() -> None:
    settings = Settings.from_env({"URL_DENY_NETWORKS": "8.8.8.0/24, 2606:4700::/32", "URL_ALLOW_NETWORKS": "::/0"})
    policy = FetchPolicy(allow_networks=settings.url_allow_networks, deny_networks=settings.url_deny_networks)
    check_addresses(["8.8.4.4", "2a00:1450::8a"], policy)
    for address in ("8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8"):
        with pytest.raises(UrlRefused):
            check_addresses(["1.1.1.1", address], policy)
    for wrong in ("8.8.8.8/24", "x.example", "8.8.8"):
        with pytest.raises(SettingsError, match="URL_DENY_NETWORKS"):
            Settings.from_env({"URL_DENY_NETWORKS": wrong})


# Fetching, from servers on this machine that a policy lets through.

Answer = Callable[[socket.socket], None]


@contextmanager
def serving(answer: Answer, tls: ssl.SSLContext | None = None, heard: list[bytes] | None = None) -> Iterator[int]:
    """A server on 127.0.0.1 that reads a request's head and then does what `answer` does; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    try:
                        stream = tls.wrap_socket(client, server_side=True) if tls else client
                        head = stream.recv(65536)
                        if heard is not None:
                            heard.append(head)
                        answer(stream)
                    except OSError:
                        continue

        threading.Thread(target=run, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def says(text: str | bytes) -> Answer:
    raw = text.encode() if isinstance(text, str) else text
    return lambda client: client.sendall(raw)


PHOTO = says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nphoto")


def drips(head: bytes, byte: bytes) -> Answer:
    def answer(client: socket.socket) -> None:
        client.sendall(head)
        while True:
            client.sendall(byte)
            time.sleep(0.05)

    return answer


def local(fetcher: Fetcher, port: int, **changes: object) -> Fetcher:
    """A fetcher that may talk to this machine, on this port, whatever the name."""
    policy = FetchPolicy(ports={port}, allow_networks=[ip_network("127.0.0.0/8")])
    resolver = Resolver(2, changes.pop("resolve", lambda host, port: ["127.0.0.1"]))
    return replace(fetcher, **{"policy": policy, "resolver": resolver, **changes})


@pytest.mark.parametrize("host", ["photos.example", "[2606:4700::1]"])
def test_fetches_the_body_and_sends_no_secrets(host: str, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with serving(PHOTO, heard=(heard := [])) as port:
        assert local(fetcher, port).fetch(f"http://{host}:{port}/a.jpg?x=1") == b"photo"
    head = heard[0].decode().lower()
    assert head.startswith("get /a.jpg?x=1 http/1.1\r\n") and f"host: {host}:{port}\r\n" in head
    assert "cookie" not in head and "authorization" not in head


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (says("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), UrlUnfetchable),
        (says("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"), UrlTooLarge),
        (says(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000), UrlTooLarge),
        (says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000 + b"\r\n"), UrlTooLarge),
        (says("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nshort"), UrlUnfetchable),
        (says("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nshort"), UrlUnfetchable),
        (says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nshort"), UrlUnfetchable),
        (says("SSH-2.0-OpenSSH_9.0\r\n"), UrlUnfetchable),
        (says(b"\x00" * 200_000), UrlUnfetchable),
        (says(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000), UrlUnfetchable),
        (says(""), UrlUnfetchable),
    ],
)  # fmt: skip
def test_hostile_servers(answer: Answer, error: type[UrlError], fetcher: Fetcher) -> None:
    with serving(answer) as port, pytest.raises(error):
        local(fetcher, port).fetch(f"http://photos.example:{port}/")


@pytest.mark.parametrize(
    "answer",
    [
        drips(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"x"),
        drips(b"HTTP/1.1 200 OK\r\n", b"x"),
        drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        lambda client: time.sleep(60),
    ],
)
def test_a_slow_drip_ends_at_the_deadline(answer: Answer, fetcher: Fetcher) -> None:
    started = time.monotonic()
    with serving(answer) as port, pytest.raises(UrlUnfetchable):
        local(fetcher, port, seconds=0.2).fetch(f"http://photos.example:{port}/")
    assert time.monotonic() - started < 10


def test_silent_name_servers_hold_up_no_other_fetch(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there may be fetches, and lookups that go on long after their fetches have given up."""
    monkeypatch.setattr("serving.fetch.resolve.SECONDS", 0.1)
    release = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        if host.startswith("silent"):
            release.wait(20)
        return ["127.0.0.1"]

    with serving(PHOTO) as port:
        patient = local(fetcher, port, resolve=resolve)
        started = time.monotonic()
        for number in range(4):
            with pytest.raises(UrlUnfetchable):
                patient.fetch(f"http://silent{number}.example:{port}/")
        assert patient.fetch(f"http://quick.example:{port}/") == b"photo"
        assert time.monotonic() - started < 10
    release.set()


def test_the_longest_lookup_makes_room_for_another_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, release = threading.Semaphore(0), threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        begun.release()
        release.wait(20)
        return ["8.8.8.8"]

    resolver = Resolver(2, resolve)
    assert not resolver.make_room()
    with ThreadPoolExecutor(2) as pool:
        callers = []
        for name in ("old", "new"):
            callers.append(pool.submit(resolver.addresses, name, 80, 10))
            assert begun.acquire(timeout=10)
        assert not resolver.make_room()  # both may still be answered
        monkeypatch.setattr("serving.fetch.resolve.PATIENCE", 0)
        assert resolver.make_room()
        with pytest.raises(TimeoutError):
            callers[0].result(5)
        release.set()
        assert callers[1].result(5) == ["8.8.8.8"]
    assert not resolver.make_room()


def test_lookups_that_nobody_waits_for_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the queued ones of slow name servers would starve the others."""
    monkeypatch.setattr("serving.fetch.resolve.THREADS_PER_LOOKUP", 1)
    release, lookups = threading.Event(), []

    def resolve(host: str, port: int) -> list[str]:
        lookups.append(host)
        release.wait(10)
        return ["10.0.0.1"]

    resolver = Resolver(1, resolve)
    for number in range(4):
        with pytest.raises(TimeoutError):
            resolver.addresses(f"slow{number}.example", 80, 0.05)
    release.set()
    assert resolver.addresses("quick.example", 80, 5) == ["10.0.0.1"]
    assert len(lookups) <= 2 and lookups[-1] == "quick.example"


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.2:1/", "file:///etc/passwd", "//[::1]/", "http://u:p@photos.example/", "http://0x7f.1/", "//[::1"],
)
def test_every_redirect_is_checked_anew(location: str, fetcher: Fetcher) -> None:
    answer = says(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
    with serving(answer) as port, pytest.raises(UrlRefused):
        local(fetcher, port).fetch(f"http://photos.example:{port}/")


def test_redirects_are_followed_and_counted(fetcher: Fetcher) -> None:
    seen = []

    def answer(client: socket.socket) -> None:
        seen.append(1)
        if len(seen) <= 3:
            client.sendall(b"HTTP/1.1 307 Again\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n")
        else:
            PHOTO(client)

    with serving(answer) as port:
        assert local(fetcher, port).fetch(f"http://photos.example:{port}/") == b"photo"
        seen.clear()
        with pytest.raises(UrlUnfetchable):
            local(fetcher, port, max_redirects=2).fetch(f"http://photos.example:{port}/")


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("/my car.jpg?a=b c ", "/my%20car.jpg?a=b%20c"),
        ("/größe/über　all.jpg", "/gr%C3%B6%C3%9Fe/%C3%BCber%E3%80%80all.jpg"),
        ("/gr\xf6\xdfe%20.jpg".encode("latin-1"), "/gr%F6%DFe%20.jpg"),
        ("?x=ü&y=%2F#part", "/?x=%C3%BC&y=%2F"),
    ],
)
def test_redirects_as_servers_write_them(location: str | bytes, asked: str, fetcher: Fetcher) -> None:
    heard: list[bytes] = []
    to = location if isinstance(location, bytes) else location.encode()

    def answer(client: socket.socket) -> None:
        if len(heard) == 1:
            client.sendall(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + to + b"\r\n\r\n")
        else:
            PHOTO(client)

    with serving(answer, heard=heard) as port:
        assert local(fetcher, port).fetch(f"http://photos.example:{port}/") == b"photo"
    assert heard[1].decode().startswith(f"GET {asked} HTTP/1.1\r\n")


def test_a_name_that_changes_between_check_and_connection(fetcher: Fetcher) -> None:
    """Rebinding: the second lookup would give another address, so there must be no second lookup."""
    lookups = []

    def resolve(host: str, port: int) -> list[str]:
        lookups.append(host)
        return ["127.0.0.1"] if len(lookups) == 1 else ["10.0.0.1"]

    with serving(PHOTO) as port:
        assert local(fetcher, port, resolve=resolve).fetch(f"http://photos.example:{port}/") == b"photo"
    assert lookups == ["photos.example"]


def test_the_next_address_is_tried(fetcher: Fetcher) -> None:
    with serving(PHOTO) as port:
        both = local(fetcher, port, resolve=lambda host, port: ["127.0.0.9", "127.0.0.1"])
        assert both.fetch(f"http://photos.example:{port}/") == b"photo"


def test_an_unknown_name_is_unfetchable(fetcher: Fetcher) -> None:
    with pytest.raises(UrlUnfetchable):
        fetcher.fetch("http://nowhere.invalid/")
    assert "127.0.0.1" in system_resolve("localhost", 80)


def test_tls_verifies_the_name(fetcher: Fetcher, tmp_path: Path) -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("photos.example").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with serving(PHOTO, server) as port:
        known = local(fetcher, port, tls=trusting)
        assert known.fetch(f"https://photos.example:{port}/") == b"photo"
        with pytest.raises(UrlUnfetchable):
            known.fetch(f"https://other.example:{port}/")
        with pytest.raises(UrlUnfetchable):  # an authority that nobody knows
            local(fetcher, port).fetch(f"https://photos.example:{port}/")
