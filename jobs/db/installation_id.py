"""The installation: one database of one PostgreSQL cluster, identified by an id that is generated once."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Engine, text

from jobs.db.engine import run

_MAY_ASK = text("SELECT has_function_privilege('pg_control_system()', 'EXECUTE') AS may")
_CLUSTER = text("SELECT system_identifier::text AS cluster FROM pg_control_system()")

_KNOWN = text("""
    SELECT id, cluster = :cluster AND database = here AS is_this FROM installations,
        (SELECT oid::bigint AS here FROM pg_database WHERE datname = current_database()) AS d
""")

_NEW = text("""
    INSERT INTO installations (cluster, database)
    SELECT :cluster, oid::bigint FROM pg_database WHERE datname = current_database()
    ON CONFLICT DO NOTHING RETURNING id
""")


@dataclass(frozen=True)
class Installation:
    """This database's id, and the ids that it had elsewhere before its tables were dumped and restored here."""

    id: UUID
    earlier: frozenset[UUID]


def this_installation(engine: Engine) -> Installation:
    """Return the installation of this database; the first call generates its id.

    The id belongs to the cluster's `system_identifier` and the database's oid. A dump restored elsewhere, a copy by
    CREATE DATABASE … TEMPLATE and a cluster after pg_upgrade are new installations. A physical copy (a promoted
    standby, files restored from a base backup, a disk snapshot) can't be distinguished from its original.
    """
    cluster = run(engine, _CLUSTER, {})[0].cluster if run(engine, _MAY_ASK, {})[0].may else ""
    if not any(row.is_this for row in run(engine, _KNOWN, {"cluster": cluster})):
        run(engine, _NEW, {"cluster": cluster})
    known = run(engine, _KNOWN, {"cluster": cluster})
    (here,) = (row.id for row in known if row.is_this)
    return Installation(here, frozenset(row.id for row in known if not row.is_this))
