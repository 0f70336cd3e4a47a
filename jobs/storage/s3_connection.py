"""A boto3 client for S3 that is made anew when its key is refused, so that a renewed key is found without a restart.

boto3 refreshes roles and `credential_process` by itself when they are about to expire. The environment and files are
read once for each session; and a role's key may be revoked before it expires.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from jobs.errors import ObjectStoreError, StoreCredentialsError, StoreDeniedError, StoreUnavailableError
from jobs.storage.base import S3Options
from jobs.storage.name_s3_access_key import NONE_FOUND, masked, place_of
from jobs.storage.s3_errors import explained

RENEW_S = 1.0
"""How old a client is at least that is replaced because access to one object or bucket was denied."""


class StoreKeyNotRefreshedError(StoreCredentialsError):
    """The place where the key comes from gives none that lasts; the message says where that is."""


@dataclass(frozen=True)
class _Session:
    """A client, and the key that it signs with."""

    client: Any
    session: Any
    credentials: Any
    made_at: float = field(default_factory=time.monotonic)

    def key(self) -> str:
        """Return whose key it is, refreshed where it is due. Raises what boto3 raises if that fails."""
        if self.credentials is None:
            return NONE_FOUND
        key_id = self.credentials.get_frozen_credentials().access_key
        return f"key {masked(key_id)} from {self.place()}"

    def place(self) -> str:
        """Return where the key was found."""
        return place_of(self.session, self.credentials.method)


class S3Connection:
    """A boto3 client, safe to share between threads; doesn't connect before it is used."""

    def __init__(self, options: S3Options) -> None:
        """Raises StoreUnavailableError for options and AWS configurations that boto3 can't use."""
        self._options = options
        self._lock = threading.Lock()
        self._session: _Session | None = _open(options)

    @property
    def client(self) -> Any:
        """The client in use, a new one after the key of the one before was refused."""
        return self._current().client

    @contextmanager
    def using(self, action: str) -> Iterator[Any]:
        """Yield the client; its exceptions become ObjectStoreErrors that say whose key was refused, without secrets.

        After StoreCredentialsError and StoreDeniedError, the next use looks for the key again.
        """
        used, key = self._current(), NONE_FOUND
        try:
            key = _refreshed_key(used, action)
            with explained(action, used.client.meta.endpoint_url):
                yield used.client
        except StoreKeyNotRefreshedError:
            self._discard(used)  # a role's source may be a file that has another key by now
            raise
        except StoreCredentialsError as error:
            self._discard(used)
            raise StoreCredentialsError(f"{error}; {key}") from error.__cause__
        except StoreDeniedError as error:
            if time.monotonic() >= used.made_at + RENEW_S:
                self._discard(used)
            raise StoreDeniedError(f"{error}; {key}") from error.__cause__

    def _current(self) -> _Session:
        with self._lock:
            if self._session is None:
                self._session = _open(self._options)
            return self._session

    def _discard(self, used: _Session) -> None:
        """Use this session no more, unless another thread has replaced it already."""
        with self._lock:
            if self._session is used:
                self._session = None


def _refreshed_key(used: _Session, action: str) -> str:
    """Refresh the key if it is due, and return whose it is; here, any error is one of the credentials."""
    try:
        return used.key()
    except Exception as error:  # botocore raises RuntimeError and ValueError, too
        said = _code(error) if isinstance(error, ClientError) else str(error) or type(error).__name__
        raise StoreKeyNotRefreshedError(
            f"can't {action}: the key can't be refreshed ({said}); it comes from {used.place()}"
        ) from error


def _code(error: ClientError) -> str:
    return f"{error.operation_name}: {error.response.get('Error', {}).get('Code', 'unknown')}"


def _open(options: S3Options) -> _Session:
    """Make a session, which reads the AWS configuration, and a client.

    The newer checksum headers are sent only if S3 requires them, as other stores refuse them.
    """
    config = Config(
        connect_timeout=options.connect_timeout,
        read_timeout=options.read_timeout,
        retries={"mode": "standard", "total_max_attempts": options.max_attempts},
        max_pool_connections=options.max_pool_connections,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if options.endpoint_url else {},
    )
    try:
        with explained("set up the S3 client", options.endpoint_url):
            session = boto3.session.Session(region_name=options.region)
            client = session.client("s3", endpoint_url=options.endpoint_url, config=config)
            return _Session(client, session, session.get_credentials())
    except StoreUnavailableError:
        raise
    except ObjectStoreError as error:
        raise StoreUnavailableError(str(error)) from error
