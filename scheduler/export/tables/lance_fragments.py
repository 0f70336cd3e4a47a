"""The fragments of a Lance dataset, each of which is the data file of a shard. `lance_table` imports it."""

from collections.abc import Sequence
from typing import Any

from lance import LanceDataset
from lance.fragment import FragmentMetadata

from scheduler.export.tables.commit_properties import ALL, SHARD, files_told
from scheduler.export.tables.export_table import shard_of
from scheduler.export.tables.s3_access import S3Access

KNOWN_COMMITS = 1_000
"""Commits that are looked through for the last one of a shard."""


def storage_options(access: S3Access) -> dict[str, str]:
    """Return the access to S3 as Lance takes it."""
    found = {
        "aws_endpoint": access.endpoint_url,
        "aws_region": access.region,
        "aws_access_key_id": access.key_id,
        "aws_secret_access_key": access.secret,
        "aws_session_token": access.token,
        "allow_http": "true" if (access.endpoint_url or "").startswith("http://") else None,
    }
    return {name: value for name, value in found.items() if value}


def name_of(fragment: FragmentMetadata) -> str:
    """Return the name of the fragment's file in the export's folder; columns that others have added lie in more."""
    return next(
        (f"data/{file.path}" for file in fragment.files if shard_of(f"data/{file.path}") is not None), ""
    )


def number_of(fragment: Any) -> int | None:
    """Return the number of the shard whose file a fragment is; None for others."""
    return shard_of(name_of(fragment.metadata))


def fragments_of(dataset: LanceDataset, number: int | None) -> list[FragmentMetadata]:
    """Return the fragments of a shard; None: those of no shard."""
    return [fragment.metadata for fragment in dataset.get_fragments() if number_of(fragment) == number]


def names_of(dataset: LanceDataset, number: int) -> set[str]:
    """Return the names of the files that are the fragments of a shard."""
    return {name_of(fragment) for fragment in fragments_of(dataset, number)}


def is_foreign(dataset: LanceDataset, number: int, published: Sequence[str]) -> bool:
    """Whether the shard's files are neither what nightmill last committed nor what is published.

    So it is after compaction.
    """
    committed = None
    for transaction in dataset.get_transactions(KNOWN_COMMITS):
        told = (transaction.transaction_properties if transaction else None) or {}
        if told.get(SHARD) == ALL:
            break
        if told.get(SHARD) == str(number):
            committed = files_told(told)
            break
    return names_of(dataset, number) != set(published if committed is None else committed)
