"""Checks of `nightmill doctor` for which PostgreSQL is asked."""

from sqlalchemy import Engine, text

import migrations
from console.session import MADE_BY_LATER, s3_options
from jobs.db.cluster_epochs import came_from_elsewhere
from jobs.db.engine import check_reachable, connect, run
from jobs.errors import ServiceError
from jobs.outputs.mount_marker import find_output
from jobs.queue.worker_drains import drains
from jobs.queue.worker_health_reports import unhealthy_workers
from jobs.settings import Settings, without_password
from jobs.storage.open import check_writable, open_store


class DatabaseChecks:
    """`postgres` comes first: the others need its connection, and know from it whether there are tables."""

    def __init__(self, settings: Settings, *, is_private: bool) -> None:
        self._settings, self._is_private = settings, is_private
        self._engine: Engine | None = None
        self._is_usable = self._has_tables = False

    def postgres(self) -> str:
        """Return version and address of the server, and of what form the tables are."""
        self._engine = engine = connect(self._settings.database)
        check_reachable(engine)
        version = run(engine, text("SHOW server_version"), {})[0].server_version
        is_current, is_newer = migrations.is_current(engine), migrations.is_newer_but_usable(engine)
        self._is_usable, self._has_tables = True, is_current or is_newer
        where = f"{version} at {without_password(self._settings.database)}"
        if is_current:
            return f"{where}, tables up to date"
        if is_newer:
            return f"{where}, tables of a later version, with which this one still works"
        if migrations.is_newer(engine):
            raise ServiceError(f"{where}, migrated by a later version of nightmill: {MADE_BY_LATER}")
        if self._is_private:
            return f"{where}, tables made or brought up to date by the next command"
        raise ServiceError(f"{where}, tables missing or old: run `nightmill migrate`")

    def feed(self) -> str:
        """Return that rows are written in this cluster's epoch; ServiceError if not."""
        engine = self._reached()
        if self._has_tables and came_from_elsewhere(engine):
            raise ServiceError(
                "the database came from another cluster, by a restore or a fail-over: run `nightmill migrate`, which "
                "begins the feed's next epoch; readers' cursors go on. Where the original is out of use, "
                "`nightmill adopt BATCH` takes over the folders of its batches"
            )
        return "in this cluster's epoch"

    def workers(self) -> str:
        """Return that no worker is unhealthy, and what is drained; ServiceError names those that are."""
        engine = self._reached()
        if unhealthy := unhealthy_workers(engine) if self._has_tables else []:
            raise ServiceError(
                "; ".join(f"{worker.name} is unhealthy: {worker.reason}" for worker in unhealthy)
            )
        drained = [f"{one.kind} {one.target}" for one in (drains(engine) if self._has_tables else [])]
        return f"none is unhealthy; drained: {', '.join(drained)}" if drained else "none is unhealthy"

    def output(self) -> str:
        """Return that the output can be written; without tables it isn't known whether a share is missing there."""
        uri, options = self._settings.output, s3_options(self._settings)
        store = find_output(self._reached(), uri, options) if self._has_tables else open_store(uri, options)
        check_writable(store)
        return f"{store.uri} can be written"

    def close(self) -> None:
        """Close the connections."""
        if self._engine is not None:
            self._engine.dispose()

    def _reached(self) -> Engine:
        if self._engine is None or not self._is_usable:
            raise ServiceError("not checked, as PostgreSQL can't be used")
        return self._engine
