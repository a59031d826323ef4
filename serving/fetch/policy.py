"""Which URLs and addresses may be fetched: public ones, spelled plainly. Nothing here touches the network."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import quote, urlsplit

from serving.inference.verdict.errors import UserError

MAX_URL = 2048
_PORTS = {"http": 80, "https": 443}

Address = IPv4Address | IPv6Address

# What `ipaddress.is_global` lets through, in some or all Python versions, although it is in IANA's special-purpose
# registries: protocol assignments, AS112, AMT and 6to4 anycast, multicast, Teredo, 6to4, documentation. Beside them
# Azure's 168.63.129.16, a public address that the cloud itself answers.
_NOT_PUBLIC: tuple[IPv4Network | IPv6Network, ...] = (
    *map(IPv4Network, ("168.63.129.16/32", "192.0.0.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24")),
    *map(IPv4Network, ("192.175.48.0/24", "224.0.0.0/4")),
    *map(IPv6Network, ("2001::/23", "2002::/16", "2620:4f:8000::/48", "3fff::/20")),
)
# Only this much of IPv6 is global unicast: mapped, NAT64, unique-local, link-local and multicast all lie outside.
_GLOBAL_V6 = IPv6Network("2000::/3")

_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)")


class UrlError(UserError):
    """A URL that gives no photo; the message says why in words for its sender."""


class UrlRefused(UrlError):
    """A URL or an address that is never fetched."""


@dataclass(frozen=True)
class FetchPolicy:
    """What may be fetched; what is denied is, even if it is allowed too. Hosts are as `host_pattern` gives them."""

    ports: Collection[int] = (80, 443)
    allow_hosts: Collection[str] = ()
    deny_hosts: Collection[str] = ()
    allow_networks: Collection[IPv4Network | IPv6Network] = ()
    deny_networks: Collection[IPv4Network | IPv6Network] = ()


@dataclass(frozen=True)
class Target:
    """A checked URL in parts: `host` in ASCII without brackets, `path` with its query and percent-encoded."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as the Host header has them: an IPv6 address in brackets, a usual port left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def host_pattern(text: str) -> str:
    """A host as URLs are compared with it: a name, `.name` for it and everything under it, or an address.

    Raises UrlRefused for anything else: a pattern that matches nothing would be no protection.
    """
    if "://" in text:
        raise UrlRefused("write the host alone, without https://")
    if "/" in text:
        raise UrlRefused("this is a network or a path; networks belong in URL_ALLOW_NETWORKS and URL_DENY_NETWORKS")
    if "*" in text:
        raise UrlRefused("write .example.com for example.com and everything under it")
    if text.startswith("[") or text.count(":") > 1:
        return _check_host(text.removeprefix("[").removesuffix("]"), bracketed=True)
    if ":" in text:
        raise UrlRefused("write the host without a port; URL_PORTS says which ports are fetched from")
    return "." * text.startswith(".") + _check_host(text.removeprefix("."), bracketed=False)


def host_name(text: str) -> str:
    """As `host_pattern`, without addresses: names that lead to one would pass by a list of hosts."""
    pattern = host_pattern(text)
    if ":" in pattern or _NUMBER.fullmatch(pattern.rpartition(".")[2]):
        raise UrlRefused("this is an address; those belong in URL_DENY_NETWORKS")
    return pattern


def check_url(url: str, policy: FetchPolicy) -> Target:
    """Take a URL apart. Raises UrlRefused for anything but a plain http(s) URL to an allowed host and port."""
    if len(url) > MAX_URL:
        raise UrlRefused(f"the URL is longer than {MAX_URL} characters")
    if "\\" in url or any(c.isspace() or not c.isprintable() for c in url):
        raise UrlRefused("the URL contains a space, a backslash or a character that cannot be printed")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UrlRefused(f"the URL is malformed: {error}") from None
    if parts.scheme not in _PORTS:
        raise UrlRefused("only http and https URLs are fetched")
    if "@" in parts.netloc:
        raise UrlRefused("a URL with a user name or password is not fetched")
    port = _PORTS[parts.scheme] if port is None else port
    if port not in policy.ports:
        raise UrlRefused(f"port {port} is not fetched from, only {', '.join(map(str, sorted(policy.ports)))}")
    host = _check_host(parts.hostname or "", bracketed="[" in parts.netloc)
    if _matches(host, policy.deny_hosts) or (policy.allow_hosts and not _matches(host, policy.allow_hosts)):
        raise UrlRefused(f"the host {host} is not allowed")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return Target(parts.scheme, host, port, f"{path}?{query}" if query else path)


def check_addresses(addresses: Iterable[str], policy: FetchPolicy) -> list[Address]:
    """The addresses a name resolved to, if every one may be connected to; raises UrlRefused otherwise."""
    found = [ip_address(address) for address in addresses]
    if not found:
        raise UrlRefused("the host has no address")
    if any((getattr(a, "ipv4_mapped", None) or a) in network for a in found for network in policy.deny_networks):
        raise UrlRefused("the host has an address that is not allowed")
    if not all(is_public(a) or any(a in network for network in policy.allow_networks) for a in found):
        raise UrlRefused("the host has an address that is not public")
    return found


def is_public(address: Address) -> bool:
    """Whether an address is global unicast: a machine on the open internet, and no way around to another one."""
    if isinstance(address, IPv6Address) and (address not in _GLOBAL_V6 or address.scope_id):
        return False
    return address.is_global and not any(address in network for network in _NOT_PUBLIC)


def _check_host(host: str, *, bracketed: bool) -> str:
    """The host in lower-case ASCII without a final dot. Raises UrlRefused unless it is a name or a plain address."""
    if bracketed:
        try:
            return str(IPv6Address(host if "%" not in host else ""))  # a zone (%eth0) names one of our own interfaces
        except ValueError:
            raise UrlRefused("the address in brackets is not a plain IPv6 address") from None
    try:
        name = host.encode("idna").decode("ascii").lower().removesuffix(".")  # also folds full-width digits and dots
    except UnicodeError:
        raise UrlRefused("the host is not a valid name") from None
    if _NAME.fullmatch(name) is None:
        raise UrlRefused("the host is not a valid name")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):  # system resolvers read 0x7f.1, 2130706433 and 0177.1 as addresses
        try:
            return str(IPv4Address(name))
        except ValueError:
            raise UrlRefused("an address must be spelled as four decimal numbers") from None
    return name


def _matches(host: str, patterns: Collection[str]) -> bool:
    return any(host == p.removeprefix(".") or (p.startswith(".") and host.endswith(p)) for p in patterns)
