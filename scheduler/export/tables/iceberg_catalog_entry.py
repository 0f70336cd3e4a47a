"""An export's table in a catalog: created, loaded, replaced, and never taken from somebody else."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchTableError, TableAlreadyExistsError
from pyiceberg.table import Table, TableProperties

from jobs.errors import NightmillError, UsageError
from scheduler.export.export_options import ExportOptions
from scheduler.export.tables.catalog_names import table_name
from scheduler.export.tables.commit_properties import EXPORT
from scheduler.export.tables.export_table import TablePlace
from scheduler.export.tables.iceberg_catalog import explained, make_namespace, open_catalog

INSTALLATION = "nightmill.installation"

_PROPERTIES = {
    TableProperties.MANIFEST_MERGE_ENABLED: "true",
    TableProperties.METADATA_DELETE_AFTER_COMMIT_ENABLED: "true",
    TableProperties.METADATA_PREVIOUS_VERSIONS_MAX: "20",
}


class TableIdentity:
    """The catalog, name and place of an export's table."""

    def __init__(self, place: TablePlace, options: ExportOptions, schema: pa.Schema) -> None:
        self.place, self.schema, self.catalog_name = place, schema, options.catalog
        self.identifier = table_name(options.table, place.export.name)
        if wrong := re.search("[#?%]", place.folder):
            raise UsageError(
                f"{place.folder} has a {wrong[0]!r} in it, which Iceberg takes for a part of a URL: use another folder"
            )
        self.location = f"file://{place.folder}" if place.folder.startswith("/") else place.folder

    def __str__(self) -> str:
        name = ".".join(self.identifier)
        return f"table {name} in {f'catalog {self.catalog_name}' if self.catalog_name else 'the own catalog'}"

    def path(self, name: str) -> str:
        """Return the path, in the table, of a file of the export."""
        return f"{self.location}/{name}"

    @contextmanager
    def opened(self) -> Iterator["CatalogEntry"]:
        """Open the catalog for a block of code, whose errors of pyiceberg become NightmillError."""
        with explained(str(self)):
            catalog = open_catalog(self.place.engine, self.catalog_name, self.place.store)
            try:
                yield CatalogEntry(self, catalog)
            finally:
                catalog.close()


@dataclass(frozen=True)
class CatalogEntry:
    """The table's entry in an open catalog."""

    identity: TableIdentity
    catalog: Catalog

    def make(self) -> Table:
        """Return the table, created if it isn't there; one of an earlier export at the place is replaced.

        Raises UsageError if the name belongs to another table.
        """
        identity, table = self.identity, self.find()
        if table is not None and not (self.is_ours(table) and table.location() == identity.location):
            self._require_replaceable(table)
            self.drop()
            table = None
        if table is None:
            export = identity.place.export
            whose = {INSTALLATION: str(export.installation), EXPORT: str(export.id)}
            make_namespace(self.catalog, identity.identifier[:-1])
            with suppress(TableAlreadyExistsError):  # `load` looks whose it is
                self.catalog.create_table(
                    identity.identifier,
                    identity.schema,
                    location=identity.location,
                    properties=_PROPERTIES | whose,
                )
        return self.load()

    def find(self) -> Table | None:
        """Return the table of that name, whosever it is; None if there is none."""
        try:
            return self.catalog.load_table(self.identity.identifier)
        except NoSuchTableError:
            return None
        except FileNotFoundError as error:
            if self.identity.catalog_name:
                raise NightmillError(
                    f"{self.identity}: its metadata is gone ({error}): drop it there, or name another by --table"
                ) from error
            self.drop()  # the export's folder was deleted or moved
            return None

    def load(self) -> Table:
        """Return the table with all columns. Raises NightmillError if it is gone, or isn't this export's."""
        table = self.find()
        if table is None or not self.is_ours(table):
            number = self.identity.place.export.id
            raise NightmillError(
                f"{self.identity} is no longer that of export {number}: export again, which makes it anew"
            )
        if set(self.identity.schema.names) - set(table.schema().column_names):
            with table.update_schema() as update:
                update.union_by_name(self.identity.schema)
        return table

    def drop(self) -> None:
        """Take the table out of the catalog; its files stay."""
        self.catalog.drop_table(self.identity.identifier)

    def is_ours(self, table: Table) -> bool:
        """Whether the table was made for this export."""
        export = self.identity.place.export
        whose = str(export.installation), str(export.id)
        return (table.properties.get(INSTALLATION), table.properties.get(EXPORT)) == whose

    def _require_replaceable(self, table: Table) -> None:
        """Raise UsageError unless the table is of this export elsewhere, of an earlier one here, or a copied row."""
        identity = self.identity
        is_of_installation = table.properties.get(INSTALLATION) == str(identity.place.export.installation)
        is_copied = not identity.catalog_name and not is_of_installation
        is_earlier = is_of_installation and table.location() == identity.location
        if not (self.is_ours(table) or is_copied or is_earlier):
            raise UsageError(
                f"{identity} is there already, at {table.location()}: name another by --table NAMESPACE.NAME"
            )
