"""POST to a receiver that isn't trusted: to an address that was checked, without redirects, in bounded time."""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from jobs.outbound_http.refuse_private_addresses import ForbiddenAddressError, resolve

TIMEOUT_S = 15.0
"""From the connection until the answer's headers; names are resolved before."""
_REASONS = (ForbiddenAddressError, OSError, http.client.HTTPException)


class PostError(Exception):
    """The receiver gave no answer; the message says why."""


@dataclass(frozen=True)
class Answer:
    """The status of an answer, its content type without parameters, in small letters, its body, and Retry-After."""

    status: int
    content_type: str
    body: bytes
    retry_after: str | None = None


def post(
    url: str, body: bytes, headers: Mapping[str, str], *, allows_private: bool, timeout_s: float = TIMEOUT_S
) -> int:
    """Send a request and return the status of the answer, whose body isn't read; raises PostError.

    The host's name is resolved once, and the connection goes to an address that was checked: a second look could lead
    to another one. Proxies of the environment aren't used.
    """
    return _exchange(url, body, headers, 0, allows_private=allows_private, timeout_s=timeout_s).status


def post_and_read(
    url: str, body: bytes, headers: Mapping[str, str], limit: int, *, timeout_s: float = TIMEOUT_S
) -> Answer:
    """Send a request to a host named in the settings, as `post` does, and return the answer with its body.

    PostError also if the body has more than `limit` bytes. `timeout_s` is until the end of the body.
    """
    return _exchange(url, body, headers, limit, allows_private=True, timeout_s=timeout_s)


def _exchange(
    url: str, body: bytes, headers: Mapping[str, str], limit: int, *, allows_private: bool, timeout_s: float
) -> Answer:
    """Send a request and read the answer's body unless `limit` is 0."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        addresses = resolve(host, port, allows_private=allows_private)
        context = _trusting_context() if parts.scheme == "https" else None
        connection = _Connection(host, port, addresses, context, timeout_s)
        try:
            target = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
            connection.request("POST", target, body, dict(headers))
            with connection.getresponse() as answer:
                content = answer.read(limit + 1) if limit else b""
                connection.check_is_whole()
        except _REASONS as error:
            raise PostError(connection.reason(error)) from None
        finally:
            connection.end()
    except (*_REASONS, UnicodeError) as error:
        raise PostError(_words(error)) from None
    if limit and len(content) > limit:
        raise PostError(f"its answer has more than {limit:,} bytes")
    return Answer(
        answer.status, answer.headers.get_content_type(), content, answer.headers.get("Retry-After")
    )


def _trusting_context() -> ssl.SSLContext:
    """Return what trusts the authorities of SSL_CERT_FILE or of the system; reading them takes 40 ms of a processor."""
    paths = ssl.get_default_verify_paths()
    changed_ns = Path(paths.cafile).stat().st_mtime_ns if paths.cafile else 0
    return _context_of(paths.cafile, paths.capath, changed_ns)


@lru_cache(maxsize=1)
def _context_of(_file: str | None, _folder: str | None, _changed_ns: int) -> ssl.SSLContext:
    return ssl.create_default_context()


class _Connection(http.client.HTTPConnection):
    """A connection to one of some addresses, which is cut after a time, however slowly the other side answers."""

    def __init__(
        self, host: str, port: int, addresses: list[str], context: ssl.SSLContext | None, timeout_s: float
    ) -> None:
        super().__init__(host, port)
        self.default_port = 443 if context else 80  # else the port becomes part of the header Host
        self._addresses, self._context = addresses, context
        self._timeout_s, self._until = timeout_s, time.monotonic() + timeout_s
        self._socket: socket.socket | None = None
        self._is_cut = False
        self._cutter = threading.Timer(timeout_s, self._cut)
        self._cutter.daemon = True
        self._cutter.start()

    def connect(self) -> None:
        """Connect to the first address that takes the connection."""
        for address in self._addresses:
            try:
                self._socket = socket.create_connection((address, self.port), max(0.1, self._left_s()))
                break
            except OSError:
                if address == self._addresses[-1] or self._left_s() <= 0:
                    raise
        assert self._socket is not None
        self._socket.settimeout(self._timeout_s)
        self.sock = self._socket
        if self._context is not None:
            secure = self._context.wrap_socket(
                self._socket, server_hostname=self.host, do_handshake_on_connect=False
            )
            self.sock = self._socket = secure
            secure.do_handshake()

    def end(self) -> None:
        """Close the connection, and forget the time limit; http.client closes it itself before the body is read."""
        self._cutter.cancel()
        self.close()

    def check_is_whole(self) -> None:
        """Raise TimeoutError if the connection was cut, which looks like the end of the answer's headers."""
        if self._is_cut:
            raise TimeoutError

    def reason(self, error: Exception) -> str:
        """Return what an error of this connection means."""
        if self._is_cut or isinstance(error, TimeoutError):
            return f"no answer within {self._timeout_s:g} s"
        return _words(error)

    def _left_s(self) -> float:
        return self._until - time.monotonic()

    def _cut(self) -> None:
        self._is_cut = True
        if self._socket is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _words(error: Exception) -> str:
    match error:
        case ForbiddenAddressError():
            return str(error)
        case ssl.SSLCertVerificationError():
            return f"its certificate isn't valid: {error.verify_message}"
        case http.client.RemoteDisconnected():
            return "it closed the connection without an answer"
        case OSError() if error.strerror:
            return error.strerror
        case _:
            return f"no valid answer ({type(error).__name__})"
