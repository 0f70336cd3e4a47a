"""Validation of URLs in settings; error messages don't contain the URL, which may hold a password."""

from collections.abc import Mapping, Set
from urllib.parse import SplitResult, parse_qsl, urlsplit

NO_KEYS: frozenset[str] = frozenset()
_TLS = frozenset({"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"})
BROKERS: Mapping[str, Set[str]] = {
    "redis": NO_KEYS,
    "rediss": _TLS,
    "redis+socket": frozenset({"virtual_host"}),
}
"""Schemes of a broker URL, and the query keys that each allows."""
ENDPOINTS: Mapping[str, Set[str]] = {"http": NO_KEYS, "https": NO_KEYS}


def check_broker_url(url: str) -> None:
    """Raise ValueError unless this is a Redis URL."""
    parts = _parsed(url, BROKERS)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    number = (
        query.get("virtual_host", "0") if parts.scheme == "redis+socket" else parts.path.strip("/") or "0"
    )
    if not (number.isascii() and number.isdigit()):
        raise ValueError("the number of the database is no number; write redis://host:6379/0")
    if parts.scheme == "redis+socket" and not parts.path:
        raise ValueError("the path of the socket is missing; write redis+socket:///path/of/the.sock")


def check_endpoint_url(url: str) -> None:
    """Raise ValueError unless this is an http or https URL."""
    if not _parsed(url, ENDPOINTS).hostname:
        raise ValueError("the host is missing; write https://host:port")


def check_service_url(url: str) -> None:
    """Raise ValueError unless this is an https URL without user and query; http only of this machine."""
    check_endpoint_url(url)
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise ValueError("the URL may have no user, password or query; the key is a setting of its own")
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError(
            "must be https://…, as a key and images are sent there; http:// only on this machine"
        )
    if "/contentsafety" in parts.path or parts.path.endswith(":analyze"):
        raise ValueError(
            "must end before /contentsafety/…, which is added, as in https://NAME.cognitiveservices.azure.com"
        )


def check_authority_url(url: str) -> None:
    """Raise ValueError unless this is an http or https URL, which may have a query."""
    check_endpoint_url(url.partition("?")[0])


def check_port(url: str) -> None:
    """Raise ValueError if the URL's port is invalid; nothing else is checked."""
    try:
        port = urlsplit(url).port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(
            "the port must be a number from 1 to 65535; in a password, write : as %3A, / as %2F, @ as %40"
        )


def _parsed(url: str, schemes: Mapping[str, Set[str]]) -> SplitResult:
    wanted = ", ".join(f"{scheme}://…" for scheme in schemes)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"is not a URL; write {wanted}") from None
    if "://" not in url:
        raise ValueError(f"is not a URL; write {wanted}")
    if parts.scheme not in schemes:
        raise ValueError(f"must be {wanted}, not {parts.scheme}://…")
    check_port(url)
    unknown = {key for key, _ in parse_qsl(parts.query, keep_blank_values=True)} - schemes[parts.scheme]
    if unknown or parts.fragment or (parts.query and not parse_qsl(parts.query, keep_blank_values=True)):
        known = ", ".join(sorted(schemes[parts.scheme])) or "nothing"
        raise ValueError(f"after the ? may stand {known}; in a password, write ? as %3F and # as %23")
    return parts
