"""Which addresses messages may be sent to (protection against SSRF): by default only those of the public internet."""

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from jobs.errors import UsageError

_NAT64 = IPv6Network("64:ff9b::/96")
_LONGEST_URL = 2000


class ForbiddenAddressError(Exception):
    """The receiver's name leads to an address that isn't public."""


def check_url(url: str, *, allows_private: bool) -> None:
    """Raise UsageError unless messages can be sent to the URL, as far as that can be told without resolving names."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if not (is_plain and host) or port == 0 or parts.scheme not in ("https", "http"):
        raise UsageError("the receiver's URL must be https://host/path, of ASCII characters alone")
    if parts.username or parts.password or parts.fragment or len(url) > _LONGEST_URL:
        raise UsageError(
            "the receiver's URL may have no user, password or fragment, and at most 2,000 characters"
        )
    if allows_private:
        return
    if parts.scheme == "http":
        raise UsageError(
            "the receiver's URL must be https://…; --allow-private takes http://, too, for your own network"
        )
    if _is_address(host) and not is_public(host):
        raise UsageError(f"{host} isn't a public address; --allow-private allows such")


def resolve(host: str, port: int, *, allows_private: bool) -> list[str]:
    """Return a host's addresses; raises ForbiddenAddressError if one of them isn't public, OSError if there is none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    for address in addresses:
        if not allows_private and not is_public(address):
            raise ForbiddenAddressError(f"{host} leads to {address}, which isn't a public address")
    return addresses


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet, and so are IPv4 addresses that it contains."""
    given = ip_address(address.partition("%")[0])
    return all(each.is_global and not each.is_multicast for each in (given, *_contained(given)))


def _contained(address: IPv4Address | IPv6Address) -> Iterator[IPv4Address]:
    if isinstance(address, IPv4Address):
        return
    if address in _NAT64:
        yield IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo or ()
    yield from (each for each in (address.ipv4_mapped, address.sixtofour, *teredo) if each is not None)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
