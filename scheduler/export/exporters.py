"""The export formats: a file in `scheduler/export/formats/` for each, whose name is that of the format."""

import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from jobs.errors import UsageError

_FOLDER = Path(__file__).parent / "formats"

Rows = Iterator[dict[str, Any]]
Write = Callable[[Path, Rows], int]


@dataclass(frozen=True)
class Exporter:
    """An export format. `write` writes image records to a file and returns their number.

    `name` is also the extension of the files, and `content_type` their type in an object store.
    """

    name: str
    content_type: str
    write: Write


_REGISTERED: dict[str, Exporter] = {}


def exporter(name: str, *, content_type: str) -> Callable[[Write], Write]:
    """Register the decorated function as the writer of a format."""

    def register(write: Write) -> Write:
        _REGISTERED[name] = Exporter(name, content_type, write)
        return write

    return register


def format_names() -> list[str]:
    """Return the names of all formats, sorted, without importing what writes them."""
    files = {
        module.name for module in pkgutil.iter_modules([str(_FOLDER)]) if not module.name.startswith("_")
    }
    return sorted(files | _REGISTERED.keys())


def exporter_of(name: str) -> Exporter:
    """Return the exporter of a format. Raises UsageError if there is none."""
    if name not in format_names():
        raise UsageError(f"there is no export format {name!r}; there are {', '.join(format_names())}")
    if name not in _REGISTERED:
        import_module(f"scheduler.export.formats.{name}")
    if name not in _REGISTERED:
        raise UsageError(f"scheduler/export/formats/{name}.py registers no @exporter({name!r})")
    return _REGISTERED[name]
