"""Translation of boto3 exceptions into ObjectStoreError with a message: what failed, where, and what to do."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

from jobs.errors import ObjectStoreError, StoreCredentialsError, StoreDeniedError, StoreUnavailableError
from jobs.storage.base import MissingObjectError

_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role"
_DENIED = "access denied: the credentials need GetObject, PutObject, DeleteObject and ListBucket there"
_EXPIRED = "the session token has expired: renew it, or sign in again"
_ADVICE = {
    "NoSuchBucket": "the bucket doesn't exist: create it or correct its name",
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "403": f"{_DENIED}, and must be accepted at all",
    "InvalidAccessKeyId": f"the store doesn't know the access key: {_CREDENTIALS}",
    "SignatureDoesNotMatch": "the secret key doesn't fit the access key: set both again",
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": "the session token isn't valid: set key and token again",
    "InvalidSecurity": f"the store doesn't accept the key: {_CREDENTIALS}",
    "NotSignedUp": "the key's account isn't signed up for S3",
    "RequestExpired": "this machine's clock is wrong: set it",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "PermanentRedirect": "the bucket lives in another region: set NIGHTMILL_S3_REGION",
    "AuthorizationHeaderMalformed": "the bucket lives in another region: set NIGHTMILL_S3_REGION",
    "BadDigest": "the bytes were damaged on the way: try again",
    "SlowDown": "the store asks for fewer requests: try again later",
}

_OF_THE_KEY = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "ExpiredTokenException",
        "TokenRefreshRequired",
        "InvalidToken",
        "InvalidSecurity",
        "NotSignedUp",
        "RequestExpired",
        "RequestTimeTooSkewed",
    }
)
"""Errors of the key, whatever is asked for."""

_DENIALS = frozenset({"AccessDenied", "AllAccessDisabled", "403"})
"""Errors of the key's permissions for an object or bucket; answers to HEAD have no body, and so only a number."""

_OF_THE_STORE = frozenset({"SlowDown", "NoSuchBucket", "PermanentRedirect", "AuthorizationHeaderMalformed"})
"""Errors of the store as a whole, independent of the requested object."""

_UNUSABLE = (
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
_OF_IDENTITIES = frozenset(
    {"AssumeRole", "AssumeRoleWithWebIdentity", "AssumeRoleWithSAML", "GetRoleCredentials"}
)
"""Operations by which boto3 gets a role's key; it raises their errors from the request that needs the key."""


@contextmanager
def explained(action: str, endpoint_url: str | None) -> Iterator[None]:
    """Translate boto3 exceptions raised in the block into ObjectStoreError or a subclass, without secrets."""
    try:
        yield
    except ClientError as error:
        raise _from_answer(action, error) from error
    except _UNUSABLE as error:
        said = f"no usable S3 credentials ({type(error).__name__}); {_CREDENTIALS}"
        raise StoreCredentialsError(f"can't {action}: {said}") from error
    except (ConnectionError, HTTPClientError) as error:
        place = _without_secrets(endpoint_url)
        hint = "check NIGHTMILL_S3_ENDPOINT_URL and the network"
        raise StoreUnavailableError(f"can't {action}: {place} does not answer; {hint}") from error
    except Boto3Error as error:
        inner = error.__context__
        if isinstance(inner, ClientError):
            raise _from_answer(action, inner) from error
        raise ObjectStoreError(f"can't {action}: {error}") from error
    except (BotoCoreError, ValueError) as error:
        raise ObjectStoreError(f"can't {action}: {error}") from error
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise ObjectStoreError(f"can't {action}: {error.strerror or error}{place}") from error


def _from_answer(action: str, error: ClientError) -> ObjectStoreError:
    answer: Mapping[str, Any] = error.response
    code = str(answer.get("Error", {}).get("Code", "unknown"))
    if error.operation_name in _OF_IDENTITIES:
        return StoreCredentialsError(
            f"can't {action}: the role's key is refused ({error.operation_name}: {code})"
        )
    if code in ("NoSuchKey", "404", "NotFound"):
        return MissingObjectError(f"can't {action}: there is no such object or bucket")
    said = _ADVICE.get(code) or answer.get("Error", {}).get("Message") or "no reason given"
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return _kind(code, status)(f"can't {action}: {said} ({code})")


def _kind(code: str, status: int) -> type[ObjectStoreError]:
    if code in _OF_THE_KEY or status == HTTPStatus.UNAUTHORIZED:
        return StoreCredentialsError
    if status >= 500 or code in _OF_THE_STORE:
        return StoreUnavailableError
    if code in _DENIALS or status == HTTPStatus.FORBIDDEN:
        return StoreDeniedError
    return ObjectStoreError


def _without_secrets(endpoint_url: str | None) -> str:
    parts = urlsplit(endpoint_url or "the S3 endpoint")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
