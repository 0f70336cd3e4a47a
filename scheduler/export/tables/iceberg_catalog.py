"""Catalogs of Iceberg tables: nightmill's own, in a schema of its PostgreSQL, and those that the user configures."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from pyiceberg import exceptions
from pyiceberg.catalog import Catalog, MetastoreCatalog, load_catalog
from pyiceberg.catalog.sql import SqlCatalog, SqlCatalogBaseTable
from pyiceberg.exceptions import NamespaceAlreadyExistsError
from pyiceberg.utils.config import Config
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from jobs.db.engine import transact
from jobs.errors import NightmillError, UsageError
from jobs.storage.base import ObjectStore
from scheduler.export.tables.catalog_names import OWN, SCHEMA
from scheduler.export.tables.s3_access import s3_access

_PYARROW_IO = {"py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO"}
_HAS_TABLES = text("SELECT to_regclass(:name) IS NOT NULL")
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")

PROBLEMS: tuple[type[Exception], ...] = (
    *(OSError, ValueError, SQLAlchemyError),
    *(kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)
"""What pyiceberg raises if a catalog or a file can't be reached, or refuses; those of HTTP are OSError."""


class _OwnCatalog(SqlCatalog):
    """pyiceberg's SQL catalog on nightmill's connections, with its tables in a schema of their own."""

    def __init__(self, engine: Engine, properties: Mapping[str, str]) -> None:
        MetastoreCatalog.__init__(self, OWN, **properties)  # SqlCatalog's own would open another connection
        self.engine = engine.execution_options(schema_translate_map={None: SCHEMA})
        self._schema_version = "v1"

    def close(self) -> None:
        """Leave the connections open: they are nightmill's."""


def open_catalog(engine: Engine, name: str, store: ObjectStore) -> Catalog:
    """Return the catalog that the user names: one that pyiceberg is configured for, or a URI; "": nightmill's own.

    Files are read and written as those of `store`, where the catalog's configuration doesn't say otherwise. Raises
    UsageError for an unknown name, NightmillError for a catalog that can't be reached.
    """
    if not name:
        transact(engine, _make_tables)
        return _OwnCatalog(engine, _PYARROW_IO | _s3_properties(store))
    with explained(f"catalog {name}"):
        if "://" in name:
            return load_catalog(OWN, uri=name, **_PYARROW_IO, **_s3_properties(store))
        configured = Config().get_catalog_config(name)
        if configured is None:
            raise UsageError(
                f"pyiceberg has no catalog {name!r}: name one of its .pyiceberg.yaml, write its URI, or leave "
                "--catalog out for nightmill's own"
            )
        has_s3 = any(key.startswith("s3.") for key in configured)
        properties = {**({} if has_s3 else _s3_properties(store)), **configured}
        return load_catalog(name, **cast("dict[str, str]", properties))


def make_namespace(catalog: Catalog, namespace: tuple[str, ...]) -> None:
    """Create a namespace if it isn't there."""
    try:
        if not catalog.namespace_exists(namespace):
            catalog.create_namespace(namespace)
    except NamespaceAlreadyExistsError:
        pass  # another process was faster


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn errors of pyiceberg into NightmillError, which names the table or catalog."""
    try:
        yield
    except NightmillError:
        raise
    except PROBLEMS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NightmillError(f"Iceberg, {what}: {reason}") from error


def _make_tables(connection: Connection) -> None:
    if connection.execute(_HAS_TABLES, {"name": f"{SCHEMA}.iceberg_namespace_properties"}).scalar_one():
        return
    connection.execute(_LOCK, {"name": SCHEMA})
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    translated = connection.execution_options(schema_translate_map={None: SCHEMA})
    SqlCatalogBaseTable.metadata.create_all(translated)


def _s3_properties(store: ObjectStore) -> dict[str, str]:
    """Return how pyiceberg reaches what the store reaches."""
    if (access := s3_access(store)) is None:
        return {}
    found = {
        "s3.endpoint": access.endpoint_url,
        "s3.region": access.region,
        "s3.access-key-id": access.key_id,
        "s3.secret-access-key": access.secret,
        "s3.session-token": access.token,
    }
    return {name: value for name, value in found.items() if value}
