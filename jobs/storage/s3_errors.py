"""Translation of boto3 exceptions into ObjectStoreError with a message: what failed, where, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from jobs.errors import ObjectStoreError, StoreUnavailableError
from jobs.storage.base import MissingObjectError

_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role"
_DENIED = "access denied: the credentials need GetObject, PutObject, DeleteObject and ListBucket there"
_ADVICE = {
    "NoSuchBucket": "the bucket doesn't exist: create it or correct its name",
    "AccessDenied": _DENIED,
    "403": _DENIED,
    "InvalidAccessKeyId": f"the store doesn't know the access key: {_CREDENTIALS}",
    "SignatureDoesNotMatch": "the secret key doesn't fit the access key: set both again",
    "ExpiredToken": "the session token has expired: sign in again",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "PermanentRedirect": "the bucket lives in another region: set NIGHTMILL_S3_REGION",
    "AuthorizationHeaderMalformed": "the bucket lives in another region: set NIGHTMILL_S3_REGION",
    "BadDigest": "the bytes were damaged on the way: try again",
    "SlowDown": "the store asks for fewer requests: try again later",
}

# Errors of the store as a whole, independent of the requested object.
_OF_THE_STORE = frozenset(
    {
        "SlowDown",
        "NoSuchBucket",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "RequestTimeTooSkewed",
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
    }
)


@contextmanager
def explained(action: str, endpoint_url: str | None) -> Iterator[None]:
    """Translate boto3 exceptions raised in the block into ObjectStoreError or a subclass, without secrets."""
    try:
        yield
    except ClientError as error:
        raise _from_answer(action, error.response) from error
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
        raise StoreUnavailableError(f"can't {action}: no usable S3 credentials; {_CREDENTIALS}") from error
    except (ConnectionError, HTTPClientError) as error:
        place = _without_secrets(endpoint_url)
        hint = "check NIGHTMILL_S3_ENDPOINT_URL and the network"
        raise StoreUnavailableError(f"can't {action}: {place} does not answer; {hint}") from error
    except Boto3Error as error:
        inner = error.__context__
        if isinstance(inner, ClientError):
            raise _from_answer(action, inner.response) from error
        raise ObjectStoreError(f"can't {action}: {error}") from error
    except (BotoCoreError, ValueError) as error:
        raise ObjectStoreError(f"can't {action}: {error}") from error
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise ObjectStoreError(f"can't {action}: {error.strerror or error}{place}") from error


def _from_answer(action: str, response: dict[str, Any]) -> ObjectStoreError:
    code = str(response.get("Error", {}).get("Code", "unknown"))
    if code in ("NoSuchKey", "404", "NotFound"):
        return MissingObjectError(f"can't {action}: there is no such object or bucket")
    said = _ADVICE.get(code) or response.get("Error", {}).get("Message") or "no reason given"
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    kind = StoreUnavailableError if status >= 500 or code in _OF_THE_STORE else ObjectStoreError
    return kind(f"can't {action}: {said} ({code})")


def _without_secrets(endpoint_url: str | None) -> str:
    parts = urlsplit(endpoint_url or "the S3 endpoint")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
