"""The time-stamping authority of the settings: asked over HTTP, and left alone for a while after it failed."""

import base64
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from jobs.errors import UsageError
from jobs.exports.shard_rfc3161_time_stamps import TimeStamp
from jobs.outbound_http.bounded_http_post import PostError, post_and_read
from jobs.settings import Settings
from models.errors import MissingPackagesError
from models.optional_packages import require
from scheduler.export.rfc3161_time_stamps.errors import TimeStampError
from scheduler.export.rfc3161_time_stamps.load_trusted_certificates import read_certificates

if TYPE_CHECKING:
    from cryptography import x509

TIMEOUT_S = 20.0
"""From the connection until the end of the answer."""
LONGEST_ANSWER = 1 << 16
"""Bytes; answers with a chain of certificates have 3 to 10 thousand."""
PAUSES_S = (30.0, 60.0, 300.0, 900.0, 3600.0)
"""How long an authority is left alone after failures one after another."""
_TRIES = 2
"""Of one call, before the authority counts as failed."""
_AGAIN_S = 1.0
_REQUEST, _ANSWER = "application/timestamp-query", "application/timestamp-reply"


class TimeStampAuthority:
    """An authority at an http or https URL; for one thread at a time.

    `trusted` are certificates of which one must have issued the authority's; none: any will do.
    """

    def __init__(
        self, url: str, trusted: "Sequence[x509.Certificate]" = (), *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._url, self._trusted, self._timeout_s = url, trusted, timeout_s
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self._headers = {"Content-Type": _REQUEST, "Accept": _ANSWER, "User-Agent": "nightmill"}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"
        self._failures, self._again_at = 0, 0.0
        self.last_error: str | None = None

    @classmethod
    def of_settings(cls, settings: Settings) -> "TimeStampAuthority | None":
        """Return the authority that the settings name; None if they name none.

        Raises UsageError if packages are missing, or the trusted certificates can't be read.
        """
        if settings.timestamp_url is None:
            return None
        try:
            require("timestamps", "NIGHTMILL_TIMESTAMP_URL needs")
        except MissingPackagesError as error:
            raise UsageError(str(error)) from None
        trusted = [] if settings.timestamp_trust is None else read_certificates(settings.timestamp_trust)
        return cls(settings.timestamp_url.get_secret_value(), trusted)

    @property
    def is_ready(self) -> bool:
        """Whether it may be asked now: it hasn't failed lately."""
        return time.monotonic() >= self._again_at

    def stamp(self, sha256: str) -> TimeStamp:
        """Get a time stamp of a SHA-256 digest, given in hex, and check it.

        Raises TimeStampError; then `is_ready` is false for a while, which grows with each failure.
        """
        try:
            stamp = self._try(sha256)
        except TimeStampError as error:
            self.last_error = str(error)
            self._again_at = time.monotonic() + PAUSES_S[min(self._failures, len(PAUSES_S) - 1)]
            self._failures += 1
            raise
        self._failures, self.last_error = 0, None
        return stamp

    def _try(self, sha256: str) -> TimeStamp:
        for _ in range(_TRIES - 1):
            try:
                return self._ask(sha256)
            except TimeStampError:
                time.sleep(_AGAIN_S)
        return self._ask(sha256)

    def _ask(self, sha256: str) -> TimeStamp:
        from scheduler.export.rfc3161_time_stamps.request_and_verify_token import (  # noqa: PLC0415 - needs the extra's packages
            check_response,
            new_request,
        )

        request = new_request(sha256)
        try:
            answer = post_and_read(
                self._url, request.body, self._headers, LONGEST_ANSWER, timeout_s=self._timeout_s
            )
        except PostError as error:
            raise TimeStampError(f"the time-stamping authority {self.host}: {error}") from None
        if answer.status != 200:
            raise TimeStampError(
                f"the time-stamping authority {self.host} answers with status {answer.status}"
                + ("; NIGHTMILL_TIMESTAMP_URL must name where it leads" if 300 <= answer.status < 400 else "")
            )
        if answer.content_type != _ANSWER:
            raise TimeStampError(
                f"the time-stamping authority {self.host} answers with {answer.content_type[:60]!r}, not {_ANSWER}"
            )
        try:
            return check_response(answer.body, sha256, self._trusted, request.nonce)
        except TimeStampError as error:
            raise TimeStampError(f"the answer of the time-stamping authority {self.host}: {error}") from None
