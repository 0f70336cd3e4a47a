"""Finds the batch that was made of a submit request, by its digest."""

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, text

from jobs.errors import UsageError
from jobs.job_dataclasses import BatchId
from scheduler.ingest.submit_request import FOLDER, SubmitRequest

CHOSEN = "chosen"
"""Key of the column `settings`: the policy's keys that ingest chose; earlier versions stored none."""


def find_batch(connection: Connection, request: SubmitRequest) -> Row[Any] | None:
    """Return the request's batch if it exists, including one made by an earlier version."""
    _, row = digest_and_batch(connection, request)
    if row := row or _without_name(connection, request) or _from_before_seeds_by_id(connection, request):
        return row
    for digest in request.older_digests():
        row = _with_digest(connection, digest)
        if row and FOLDER not in _differences(row, request):
            return row
    return None


def _without_name(connection: Connection, request: SubmitRequest) -> Row[Any] | None:
    """Return the batch that was made of the request without a name, if the name given now is what it is called."""
    if request.name is None:
        return None
    _, row = digest_and_batch(connection, replace(request, name=None))
    return row if row and row.name == request.name else None


def _from_before_seeds_by_id(connection: Connection, request: SubmitRequest) -> Row[Any] | None:
    """Return the batch that an earlier version made of the request, with what was then the default of its seeds."""
    _, row = digest_and_batch(connection, request.with_defaults_given())
    return row if row and CHOSEN not in row.settings else None


def digest_and_batch(connection: Connection, request: SubmitRequest) -> tuple[str, Row[Any] | None]:
    """Return the request's digest and the batch that has it, unless that batch depends on different circumstances."""
    depends: set[str] = set()
    while True:
        digest = request.digest(*sorted(depends))
        row = _with_digest(connection, digest)
        more = _differences(row, request) - depends if row else set()
        if not more:
            return digest, row
        depends |= more


def free_digest(connection: Connection, request: SubmitRequest, batch: BatchId, name: str) -> str:
    """Return the digest by which a submit of the request finds a batch; with the batch's name if another has it."""
    for one in (request, replace(request, name=name)):
        digest, row = digest_and_batch(connection, one)
        if row is None or row.id == batch:
            return digest
    raise UsageError(f"this manifest with these settings is batch {row.name} already" if row else "")


def _differences(row: Row[Any], request: SubmitRequest) -> set[str]:
    return {key for key, value in request.circumstances.items() if row.settings.get(key, value) != value}


def _with_digest(connection: Connection, digest: str) -> Row[Any] | None:
    statement = text("""
        SELECT id, name, folder, rows, rejected, jobs, settings, seed_from, policy FROM batches
        WHERE digest = :digest
    """)
    return connection.execute(statement, {"digest": digest}).one_or_none()
