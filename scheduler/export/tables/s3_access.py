"""S3 endpoint, region and credentials in the form that pyiceberg and Lance take."""

from dataclasses import dataclass

import boto3

from jobs.storage.base import ObjectStore


@dataclass(frozen=True)
class S3Access:
    """Endpoint, region and credentials."""

    endpoint_url: str | None
    region: str | None
    key_id: str | None = None
    secret: str | None = None
    token: str | None = None


def s3_access(store: ObjectStore) -> S3Access | None:
    """Return what the store uses, with the credentials of boto3's chain as they are now; None for a folder.

    Raises ObjectStoreError if the credentials can't be refreshed.
    """
    if not store.uri.startswith("s3://"):
        return None
    from jobs.storage.s3 import S3Store  # noqa: PLC0415 - as in jobs.storage.open
    from jobs.storage.s3_errors import explained  # noqa: PLC0415 - the same

    assert isinstance(store, S3Store)
    with explained(f"write to {store.uri}", store.endpoint_url):
        credentials = boto3.session.Session().get_credentials()
        key = credentials.get_frozen_credentials() if credentials else None
    if key is None:
        return S3Access(store.endpoint_url, store.region)
    return S3Access(store.endpoint_url, store.region, key.access_key, key.secret_key, key.token)
