"""Runs migrations on the connection that `migrations.upgrade` hands in, or on NIGHTMILL_DATABASE_URL's."""

import os

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql.base import ischema_names

from jobs.db.engine import connect
from jobs.db.schema import Xid8, metadata

ischema_names["xid8"] = Xid8  # so that comparing the tables knows the type


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    with connect(os.environ["NIGHTMILL_DATABASE_URL"]).begin() as connection:
        migrate(connection)
