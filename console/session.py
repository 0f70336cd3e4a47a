"""The session of a command: settings, running services and an up-to-date database."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

from sqlalchemy import Engine

import migrations
from console.terminal.output import note
from jobs.batches.actions import BatchStatus
from jobs.db.cluster_epochs import begin_epoch
from jobs.db.engine import await_reachable, connect, keep_trying
from jobs.errors import ServiceError, UsageError
from jobs.outputs.mount_marker import find_output
from jobs.outputs.ownership import batch_folder_around, open_claimed
from jobs.services.embedded import services
from jobs.settings import Settings, load_settings
from jobs.storage.open import ObjectStore, S3Options, open_store

T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """Configured settings (all URLs set) and a database with up-to-date tables."""

    settings: Settings
    engine: Engine

    def patiently(self, look: Callable[[], T]) -> T:
        """Return the result of `look`, retrying while PostgreSQL is unavailable, each time for a limited time."""
        return cast(T, keep_trying(look, self.settings.database_wait_s, note))

    def store(self, uri: str) -> ObjectStore:
        """Open the store at a folder or ``s3://`` URI. Raises UsageError if it is inside a batch's folder."""
        options = s3_options(self.settings)
        if (around := batch_folder_around(uri, options)) is not None:
            raise UsageError(
                f"{uri} lies in {around}, the folder of a batch: name a folder outside, or leave --to off, which "
                "writes beside the images"
            )
        return open_store(uri, options)

    def batch_store(self, batch: BatchStatus) -> ObjectStore:
        """Open a batch's output for reading and deleting. Raises OutputGoneError if its share isn't mounted."""
        return find_output(self.engine, batch.output, s3_options(self.settings))

    def claimed_store(self, batch: BatchStatus) -> ObjectStore:
        """Open a batch's output for writing. Raises ForeignOutputError if the folder is another installation's."""
        return open_claimed(self.engine, batch.output, s3_options(self.settings), batch.id, batch.folder)


def s3_options(settings: Settings) -> S3Options:
    """Return the connection options of S3."""
    return S3Options(endpoint_url=settings.s3_endpoint_url, region=settings.s3_region)


MADE_BY_LATER = "install that version here, or go back with its `nightmill migrate --down --to REVISION`"


@contextmanager
def session(
    settings: Settings | None = None, *, waits: bool = False, tell: Callable[[str], object] = note
) -> Iterator[Session]:
    """Open a session for one command. A private database is migrated if needed, a user's own one is only checked.

    Waits for a server that is starting or out of connections; with `waits`, for an unreachable one, too. `tell` is
    called with what the user should know.
    """
    settings = settings or load_settings()
    is_private = settings.database_url is None
    with services(settings) as configured:
        engine = connect(configured.database)
        try:
            await_reachable(engine, settings.database_wait_s, tell, only_if_busy=not waits)
            keep_trying(lambda: _check_tables(engine, is_private, tell), settings.database_wait_s, tell)
            begin_epoch(engine)
            yield Session(configured, engine)
        finally:
            engine.dispose()


def _check_tables(engine: Engine, is_private: bool, tell: Callable[[str], object]) -> None:
    if migrations.is_current(engine):
        return
    if migrations.is_newer_but_usable(engine):
        tell("the database has the tables of a later version of nightmill, with which this one still works")
        return
    if not is_private and migrations.is_newer(engine):
        raise ServiceError(f"the database was migrated by a later version of nightmill: {MADE_BY_LATER}")
    if not is_private:
        raise ServiceError(
            "the database lacks nightmill's tables or has an older form of them: run `nightmill migrate`"
        )
    try:
        migrations.upgrade(engine)
    except migrations.UnknownRevisionError as error:
        raise ServiceError(
            f"the private database was made by another version of nightmill ({error}): use that version, "
            "or set NIGHTMILL_DATA_DIR to another folder"
        ) from None
