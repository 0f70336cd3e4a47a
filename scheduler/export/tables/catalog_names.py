"""The names of Iceberg catalogs as users write them; known without pyiceberg."""

import re
from urllib.parse import urlsplit

from jobs.errors import UsageError

OWN = "nightmill"
"""The name of nightmill's own catalog, and the namespace of tables that the user gives none."""

SCHEMA = "nightmill_iceberg"
"""Of PostgreSQL, with the tables that pyiceberg makes for that catalog."""


def check_catalog(name: str) -> None:
    """Raise UsageError if a catalog's URI holds a password: it is stored with the export, and shown."""
    try:
        has_password = "://" in name and urlsplit(name).password is not None
    except ValueError:
        raise UsageError(f"--catalog {name} is no URI") from None
    if has_password:
        raise UsageError(
            "--catalog: a URI with a password would be stored with the export; write it into .pyiceberg.yaml and give "
            "the catalog's name"
        )


def table_name(given: str, dataset: str) -> tuple[str, ...]:
    """Return the identifier of a table: the given `namespace.name`, or one made of the dataset's name."""
    if not given:
        return OWN, re.sub(r"[^A-Za-z0-9_]", "_", dataset)
    parts = tuple(given.split("."))
    return parts if len(parts) > 1 else (OWN, *parts)
