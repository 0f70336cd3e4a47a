"""Looks whether an export as a table can be opened, by the metadata that `_SUCCESS` names, without its library.

No digest of it is listed: others commit to the table, too, and it has random ids and times.
"""

import json
import re
from posixpath import basename, dirname
from typing import Annotated

from pydantic import BaseModel, Field

from jobs.errors import ObjectStoreError
from scheduler.export.folder_checks.list_export_folder import ListedFolder
from scheduler.export.tables.catalog_names import OWN

_LARGEST = 2**64 - 1
"""From which Lance subtracts a version's number for the name of its manifest, so that the last one is listed first."""
_MANIFEST = re.compile(r"_versions/([0-9]{1,20})\.manifest")
_MANIFEST_ENDS = b"LANC"
_METADATA = re.compile(r"metadata/([0-9]{5,18})-[^/]+\.metadata\.json")
_GZIP_BEGINS = b"\x1f\x8b"


class TableReport(BaseModel):
    """What `_SUCCESS` tells of an export's table."""

    version: Annotated[int, Field(ge=1, lt=2**63)] = 1
    """Of a Lance dataset."""
    catalog: str = ""
    metadata: str = ""
    """The path or URI of an Iceberg table's metadata."""


def find_missing_table_metadata(folder: ListedFolder, format: str, table: TableReport) -> list[str]:
    """Return the names of files without which the table can't be opened and that aren't there."""
    if format == "lance" and "_versions" not in folder.unreadable:
        return _missing_of_lance(folder, table.version)
    if format == "iceberg" and table.metadata and "metadata" not in folder.unreadable:
        return _missing_of_iceberg(folder, table)
    return []


def _missing_of_lance(folder: ListedFolder, version: int) -> list[str]:
    """Look for the manifest of the version, or of a later one, which is there when others have committed, too."""
    latest, name = max(((_version_of(name), name) for name in folder.names), default=(0, ""))
    if latest < version:
        return [f"_versions/{_LARGEST - version:020}.manifest"]
    with folder.reading(name):
        if not folder.get(name).endswith(_MANIFEST_ENDS):
            raise _damaged(folder, name, "a manifest of Lance")
    return []


def _version_of(name: str) -> int:
    """Return the version of a manifest, in old datasets the number in its name; 0 for other names."""
    match = _MANIFEST.fullmatch(name)
    number = int(match[1]) if match else 0
    return _LARGEST - number if number > _LARGEST // 2 else number


def _missing_of_iceberg(folder: ListedFolder, table: TableReport) -> list[str]:
    """Look for the table's metadata and the manifest list of its snapshot.

    Catalogs other than the own one may keep them elsewhere: then there is nothing to look for.
    """
    place = dirname(table.metadata)
    if table.catalog != OWN and place.removeprefix("file://") != f"{folder.uri}/metadata":
        return []
    named = f"metadata/{basename(table.metadata)}"
    name = named if named in folder.names else _later_metadata(folder, named)
    if name is None:
        return [named]
    with folder.reading(name):
        listed = _manifest_list(folder, name)
        if dirname(listed) == place and f"metadata/{basename(listed)}" not in folder.names:
            return [f"metadata/{basename(listed)}"]
    return []


def _later_metadata(folder: ListedFolder, named: str) -> str | None:
    """Return the last metadata file that commits after the named one have written, which may have deleted it."""
    latest, name = max(((_commit_of(name), name) for name in folder.names), default=(-1, ""))
    return name if latest > _commit_of(named) else None


def _commit_of(name: str) -> int:
    match = _METADATA.fullmatch(name)
    return int(match[1]) if match else -1


def _manifest_list(folder: ListedFolder, name: str) -> str:
    """Return the path of the manifest list of the current snapshot; empty without one."""
    content = folder.get(name)
    if content.startswith(_GZIP_BEGINS):  # as a property of the table may have it
        return ""
    try:
        told = json.loads(content)
        current = told.get("current-snapshot-id")
        paths = {each["snapshot-id"]: each["manifest-list"] for each in told.get("snapshots") or ()}
        return "" if current in (None, -1) else str(paths[current])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _damaged(folder, name, "the metadata of an Iceberg table") from None


def _damaged(folder: ListedFolder, name: str, what: str) -> ObjectStoreError:
    return ObjectStoreError(f"{folder.uri}/{name} isn't {what}: it was cut off or changed")
