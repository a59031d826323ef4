"""Fetching a photo from a URL: within one deadline, from the very addresses that were checked."""

from __future__ import annotations

import re
import ssl
import string
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin

import certifi
import httpcore

from serving.fetch.policy import Address, FetchPolicy, Target, UrlError, UrlRefused, check_addresses, check_url
from serving.fetch.resolve import Resolver
from serving.settings import Settings

_HEADERS: dict[str | bytes, str | bytes] = {
    "User-Agent": "dirtycar",
    "Accept": "image/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
}
_REDIRECTS = (301, 302, 303, 307, 308)


class UrlUnfetchable(UrlError):
    """The host did not answer, not in time, or not with a photo."""


class UrlTooLarge(UrlError):
    """More bytes than allowed."""


@dataclass(frozen=True)
class Fetcher:
    """Fetches URLs under a policy. `seconds` covers a fetch with all its redirects, `max_bytes` its body."""

    policy: FetchPolicy
    seconds: float
    max_bytes: int
    max_redirects: int
    resolver: Resolver
    tls: ssl.SSLContext

    @classmethod
    def from_settings(cls, settings: Settings) -> Fetcher:
        """What the URL_* settings describe; it trusts the system's certificate authorities and Mozilla's."""
        tls = ssl.create_default_context()
        tls.load_verify_locations(certifi.where())
        policy = FetchPolicy(
            settings.url_ports,
            settings.url_allow_hosts,
            settings.url_deny_hosts,
            settings.url_allow_networks,
            settings.url_deny_networks,
        )
        resolver = Resolver(settings.url_concurrency)
        return cls(policy, settings.url_seconds, settings.url_max_bytes, settings.url_max_redirects, resolver, tls)

    def fetch(self, url: str) -> bytes:
        """The body behind a URL. Raises UrlRefused, UrlUnfetchable or UrlTooLarge."""
        deadline = time.monotonic() + self.seconds
        try:
            for _ in range(self.max_redirects + 1):
                body, location = self._get(check_url(url, self.policy), deadline)
                if location is None:
                    return body
                url = _join(url, location)
        except (httpcore.TimeoutException, TimeoutError):
            raise UrlUnfetchable(f"the host did not send the photo within {self.seconds:g} seconds") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise UrlUnfetchable(f"the host could not be read: {error}") from None
        raise UrlUnfetchable(f"the URL redirects more than {self.max_redirects} times")

    def _addresses(self, target: Target, deadline: float) -> list[Address]:
        """What the host's name resolves to, checked."""
        try:
            return check_addresses(self.resolver.addresses(target.host, target.port, _left(deadline)), self.policy)
        except TimeoutError:
            raise UrlUnfetchable("the host's name was not resolved in time") from None

    def _get(self, target: Target, deadline: float) -> tuple[bytes, bytes | None]:
        """One request: the body, or where it redirects to."""
        url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        backend = _Pinned(self._addresses(target, deadline), deadline)
        with (
            httpcore.ConnectionPool(ssl_context=self.tls, network_backend=backend, max_connections=1) as pool,
            pool.stream("GET", url, headers={"Host": target.authority, **_HEADERS}) as response,
        ):
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in _REDIRECTS and b"location" in headers:
                return b"", headers[b"location"]
            if response.status != 200:
                raise UrlUnfetchable(f"the host answered with status {response.status}")
            return self._read(response, headers.get(b"content-length", b"0")), None

    def _read(self, response: httpcore.Response, declared: bytes) -> bytes:
        """The body, up to `max_bytes`, whatever length was declared."""
        body = bytearray()
        if not declared.isdigit() or int(declared) <= self.max_bytes:
            for chunk in response.iter_stream():
                body += chunk
                if len(body) > self.max_bytes:
                    break
            else:
                return bytes(body)
        raise UrlTooLarge(f"the photo behind the URL is larger than {self.max_bytes:,} bytes")


def _join(url: str, location: bytes) -> str:
    """Where a redirect leads to, in the bytes that browsers make of it: many servers leave its spaces and letters
    beyond ASCII as they are. Raises UrlRefused."""
    try:
        text = location.decode()
    except UnicodeDecodeError:  # some other encoding, which only its server has to know
        text = quote(location, safe=string.punctuation)
    try:
        return urljoin(url, re.sub(r"\s", lambda space: quote(space[0]), text.strip()))
    except ValueError as error:
        raise UrlRefused(f"the URL redirects to a malformed one: {error}") from None


def _left(deadline: float) -> float:
    """Seconds until the deadline; raises TimeoutError once it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Pinned(httpcore.NetworkBackend):
    """Connects to checked addresses only, whatever the host's name resolves to by now."""

    def __init__(self, addresses: Iterable[Address], deadline: float) -> None:
        self._addresses = addresses
        self._deadline = deadline
        self._system = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = OSError("no address")
        for address in self._addresses:
            try:
                stream = self._system.connect_tcp(str(address), port, timeout=_left(self._deadline))
                return _Timed(stream, self._deadline)
            except httpcore.ConnectError as error:  # a name's IPv6 address is often out of reach: try the next
                failure = error
        raise failure


class _Timed(httpcore.NetworkStream):
    """A stream whose every step ends by one deadline, so that a slow drip of bytes does too."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline))
        return _Timed(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
